"""The S3 server of the tests: its bucket, and a secret that nothing may show."""

S3_SECRET = "moto-secret-do-not-print"
BUCKET = "contract"
