"""The formats on disk: TFRecord and HDF5 shards, index, manifest."""
