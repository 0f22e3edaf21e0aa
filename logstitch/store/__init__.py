"""The store owns transactions: the only package that knows psycopg and SQL."""
