"""All SQL. Every function takes the session first, and the tenant where one asks for a tenant's own things."""
