"""Images as people have them: TensorFlow Datasets, folders, the drawn data set, files of any kind."""
