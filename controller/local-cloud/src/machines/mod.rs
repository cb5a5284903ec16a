//! Real machines: QEMU, network namespaces, nftables, an image built once.
