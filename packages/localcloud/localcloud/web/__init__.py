"""Parts of the HTTP servers: request bodies, the request log and the web page."""
