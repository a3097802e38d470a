"""``tandem infer``: a source's definition, written from its data."""
