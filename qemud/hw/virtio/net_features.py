"""The features of a network card: the standard's bits, and which of them are offered.

Source: Virtual I/O Device (VIRTIO) Version 1.2, section 5.1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.net.offload import GSO_TCPV4, GSO_TCPV6, GSO_UDP, Offload

if TYPE_CHECKING:
    from qemud._generated.types.virtio_net import VirtioNetOptions

FEATURE_CSUM = 1 << 0
FEATURE_GUEST_CSUM = 1 << 1
FEATURE_CTRL_GUEST_OFFLOADS = 1 << 2
FEATURE_MTU = 1 << 3
FEATURE_MAC = 1 << 5
FEATURE_GSO = 1 << 6  # legacy
FEATURE_GUEST_TSO4 = 1 << 7
FEATURE_GUEST_TSO6 = 1 << 8
FEATURE_GUEST_ECN = 1 << 9
FEATURE_GUEST_UFO = 1 << 10
FEATURE_HOST_TSO4 = 1 << 11
FEATURE_HOST_TSO6 = 1 << 12
FEATURE_HOST_ECN = 1 << 13
FEATURE_HOST_UFO = 1 << 14
FEATURE_MRG_RXBUF = 1 << 15
FEATURE_STATUS = 1 << 16
FEATURE_CTRL_VQ = 1 << 17
FEATURE_CTRL_RX = 1 << 18
FEATURE_CTRL_VLAN = 1 << 19
FEATURE_CTRL_RX_EXTRA = 1 << 20
FEATURE_GUEST_ANNOUNCE = 1 << 21
FEATURE_MQ = 1 << 22
FEATURE_CTRL_MAC_ADDR = 1 << 23
FEATURE_SPEED_DUPLEX = 1 << 63

GUEST_OFFLOADS = (
    FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6 | FEATURE_GUEST_ECN | FEATURE_GUEST_UFO
)
HOST_OFFLOADS = FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6 | FEATURE_HOST_ECN | FEATURE_HOST_UFO

_ALWAYS = (
    ("mrg_rxbuf", FEATURE_MRG_RXBUF),
    ("status", FEATURE_STATUS),
    ("ctrl_vq", FEATURE_CTRL_VQ),
    ("ctrl_rx", FEATURE_CTRL_RX),
    ("ctrl_vlan", FEATURE_CTRL_VLAN),
    ("ctrl_rx_extra", FEATURE_CTRL_RX_EXTRA),
    ("ctrl_mac_addr", FEATURE_CTRL_MAC_ADDR),
    ("ctrl_guest_offloads", FEATURE_CTRL_GUEST_OFFLOADS),
    ("guest_announce", FEATURE_GUEST_ANNOUNCE),
    ("mq", FEATURE_MQ),
)
# Which depend on the backend: the option, the bit, and what the backend must take.
_OFFLOADS = (
    ("csum", FEATURE_CSUM, "csum"),
    ("guest_csum", FEATURE_GUEST_CSUM, "csum"),
    ("guest_tso4", FEATURE_GUEST_TSO4, "tso4"),
    ("guest_tso6", FEATURE_GUEST_TSO6, "tso6"),
    ("guest_ecn", FEATURE_GUEST_ECN, "ecn"),
    ("guest_ufo", FEATURE_GUEST_UFO, "ufo"),
    ("host_tso4", FEATURE_HOST_TSO4, "tso4"),
    ("host_tso6", FEATURE_HOST_TSO6, "tso6"),
    ("host_ecn", FEATURE_HOST_ECN, "ecn"),
    ("host_ufo", FEATURE_HOST_UFO, "ufo"),
)

GSO_FEATURES = {
    GSO_TCPV4: (FEATURE_HOST_TSO4, FEATURE_GUEST_TSO4),
    GSO_TCPV6: (FEATURE_HOST_TSO6, FEATURE_GUEST_TSO6),
    GSO_UDP: (FEATURE_HOST_UFO, FEATURE_GUEST_UFO),
}
"""Which of the driver, and which of the device, a kind of large frame needs."""


def features_of(options: VirtioNetOptions, backend: Offload) -> int:
    """What a card with these options offers, at a backend that takes such frames."""
    features = FEATURE_MAC
    for name, bit in _ALWAYS:
        if getattr(options, name):
            features |= bit
    for name, bit, needed in _OFFLOADS:
        if getattr(options, name) and getattr(backend, needed):
            features |= bit
    # Large frames come without checksums.
    if not features & FEATURE_CSUM:
        features &= ~HOST_OFFLOADS
    if not features & FEATURE_GUEST_CSUM:
        features &= ~GUEST_OFFLOADS
    if options.gso and backend.csum:
        features |= FEATURE_GSO
    if options.host_mtu:
        features |= FEATURE_MTU
    if options.speed >= 0 or options.duplex is not None:
        features |= FEATURE_SPEED_DUPLEX
    return features


def offload_of(features: int) -> Offload:
    """What a driver that has taken these features takes of others' work upon itself."""
    return Offload(
        csum=bool(features & FEATURE_GUEST_CSUM),
        tso4=bool(features & FEATURE_GUEST_TSO4),
        tso6=bool(features & FEATURE_GUEST_TSO6),
        ecn=bool(features & FEATURE_GUEST_ECN),
        ufo=bool(features & FEATURE_GUEST_UFO),
    )
