"""The WebSocket hub: connections, fan-out, slow clients. What a message means is the sender's business."""
