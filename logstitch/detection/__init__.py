"""Detection as a pure engine: rules and a project's events in order of commit in, the alerts that fire out."""
