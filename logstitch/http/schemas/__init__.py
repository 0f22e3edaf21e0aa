"""What goes in and out beside events that are sent: the pydantic schemas that check requests and that the documentation
is made of, one module a resource.

Requests are strict: unknown fields and parameters are refused, nothing is coerced.

Answers are not passed through their schemas, which would cost and could only fail; the tests hold every answer against
them instead.
"""
