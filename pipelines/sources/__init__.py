"""Where events come from: files and topics."""
