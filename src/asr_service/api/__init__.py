"""HTTP edge: FastAPI routers and middleware."""
