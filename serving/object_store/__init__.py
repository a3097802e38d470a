"""Objects by key, where a data folder may live: a local folder, S3, Google Cloud Storage, Azure Blob Storage; and a machine's cache of one.

``base`` is the interface, ``local_folder``, ``blobs`` and ``google_store`` are its implementations, ``connecting`` makes one of a URL,
``leases`` are locks between machines, ``cache`` is a data folder whose truth is a store. Contract: ``tandem.testing.object_store``.
"""
