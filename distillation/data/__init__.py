"""The split images as TFRecords, and the views of them that networks are shown."""
