"""What people see in a browser, looked at with a real one. Requests without a page belong to the integration tests."""
