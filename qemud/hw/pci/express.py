"""PCI Express capabilities: what a function says of its link, and, for a port, of its slot.

Source: PCI Express Base Specification 5.0, sections 7.5.3, 7.7.8 and 7.8.4; which bits are there: QEMU 10.0, hw/pci/pcie.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemud.hw.pci.registers import (
    CAP_EXPRESS,
    CAP_PM,
    DEVCAP2_EETLPP,
    DEVCAP2_EFF,
    DEVCAP_EXT_TAG,
    DEVCAP_FLR,
    DEVCAP_RBER,
    DEVCTL2_EETLPPB,
    DEVCTL_ERRORS,
    DEVCTL_FLR,
    DEVSTA_ERRORS,
    EXT_CAP_ACS,
    EXT_CAP_ERR,
    LNKCAP_DLLLARC,
    LNKCAP_LBNC,
    LNKCTL_CCC_ES,
    LNKSTA_DLLLA,
    TYPE_ROOT_PORT,
    Exp,
)

if TYPE_CHECKING:
    from qemud.hw.pci.config import ConfigSpace

_VERSION = 2
_ASPM_L0S = 0x400
_GEN_1 = 1
_GEN_4 = 4
_X1 = 1
_X32 = 32
_ALL_SPEEDS_TO_GEN_4 = 0x1E

ERR_SIZE = 0x48
_ERR_UNCOR_MASK, _ERR_UNCOR_SEVER, _ERR_COR_MASK, _ERR_CAP = 0x08, 0x0C, 0x14, 0x18
_UNCOR_ALL = 0x047F_F010
"""Uncorrectable errors that there are."""
_UNCOR_FATAL = 0x0046_2030
_UNCOR_INTERNAL = 0x0040_0000
_COR_DEFAULT = 0xE000
_COR_ALL = 0xF1C1
_ERR_CAP_BITS = 0xA0
_ERR_MULTIPLE = 0x200
_ERR_CAP_WRITABLE = 0x540

ACS_SIZE = 0x08
_ACS_CAPS = 0x5F


def add_express(config: ConfigSpace, kind: int, *, port: int = 0, at: int = 0) -> int:
    """The capability of a function of this kind; where it is."""
    exp = config.add_capability(CAP_EXPRESS, Exp.SIZE, at)
    config.set16(exp + Exp.FLAGS, kind << 4 | _VERSION)
    config.set32(exp + Exp.DEVCAP, DEVCAP_RBER | DEVCAP_EXT_TAG)
    fast = kind == TYPE_ROOT_PORT
    speed, width = (_GEN_4, _X32) if fast else (_GEN_1, _X1)
    link = port << 24 | _ASPM_L0S | width << 4 | speed
    if fast:
        link |= LNKCAP_LBNC | LNKCAP_DLLLARC
        config.set32(exp + Exp.LNKCAP2, _ALL_SPEEDS_TO_GEN_4)
        config.set16(exp + Exp.LNKCTL2, speed)
    config.set32(exp + Exp.LNKCAP, link)
    config.set16(exp + Exp.LNKSTA, _X1 << 4 | _GEN_1)
    config.changes(exp + Exp.LNKSTA, 0xFFFF, 2)
    config.set32(exp + Exp.DEVCAP2, DEVCAP2_EFF | DEVCAP2_EETLPP)
    config.writable(exp + Exp.DEVCTL2, DEVCTL2_EETLPPB, 2)
    return exp


def add_endpoint_controls(config: ConfigSpace, exp: int) -> None:
    """What an endpoint can be told: reports of errors, common clock, a reset of the function."""
    add_error_reports(config, exp)
    config.writable(exp + Exp.LNKCTL, LNKCTL_CCC_ES, 2)
    config.set32(exp + Exp.DEVCAP, config.get32(exp + Exp.DEVCAP) | DEVCAP_FLR)
    config.writable(exp + Exp.DEVCTL, DEVCTL_ERRORS | DEVCTL_FLR, 2)


def add_error_reports(config: ConfigSpace, exp: int) -> None:
    """Let the guest choose which errors are reported, and clear reports (of which there are none)."""
    config.set32(exp + Exp.DEVCAP, config.get32(exp + Exp.DEVCAP) | DEVCAP_RBER)
    config.writable(exp + Exp.DEVCTL, DEVCTL_ERRORS, 2)
    config.write_1_to_clear(exp + Exp.DEVSTA, DEVSTA_ERRORS, 2)


def add_power_management(config: ConfigSpace, *, states: int) -> int:
    """Power management of revision 1.2; `states` are the bits of the state that can be written."""
    at = config.add_capability(CAP_PM, 8)
    config.set16(at + 2, 0x3)
    config.writable(at + 4, states, 2)
    return at


def add_error_capability(config: ConfigSpace, at: int, *, root: bool) -> None:
    """Advanced error reporting.  Nothing here fails, so nothing is ever reported."""
    config.add_extended(EXT_CAP_ERR, 2, at, ERR_SIZE)
    config.set32(at + _ERR_UNCOR_MASK, _UNCOR_INTERNAL | 0x0200_0000)
    config.writable(at + _ERR_UNCOR_MASK, _UNCOR_ALL, 4)
    config.set32(at + _ERR_UNCOR_SEVER, _UNCOR_FATAL)
    config.writable(at + _ERR_UNCOR_SEVER, _UNCOR_ALL, 4)
    config.set32(at + _ERR_COR_MASK, _COR_DEFAULT)
    config.writable(at + _ERR_COR_MASK, _COR_ALL, 4)
    config.set32(at + _ERR_CAP, _ERR_CAP_BITS | (_ERR_MULTIPLE if root else 0))
    config.writable(at + _ERR_CAP, _ERR_CAP_WRITABLE, 4)
    if root:
        config.writable(at + 0x2C, 0x7, 4)


def add_access_control(config: ConfigSpace, at: int) -> None:
    """Access control services of a port."""
    config.add_extended(EXT_CAP_ACS, 1, at, ACS_SIZE)
    config.set16(at + 4, _ACS_CAPS)
    config.writable(at + 6, _ACS_CAPS, 2)


def set_link(config: ConfigSpace, exp: int, *, active: bool) -> None:
    """Whether a device is at the other end of a port's link."""
    config.change16(exp + Exp.LNKSTA, LNKSTA_DLLLA, LNKSTA_DLLLA if active else 0)
