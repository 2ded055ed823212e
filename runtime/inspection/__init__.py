"""The verb `inspect`: what an artifact holds, as a listing, as JSON or as one HTML page, and how it is computed.

`contents` reads the artifact, `listing` and `page` show that; `plan` asks the native engine. Nothing imports from here.
"""
