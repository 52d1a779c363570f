"""Where every number comes from: hashes, digests, manifests, the ledger. No torch, no math, no config."""
