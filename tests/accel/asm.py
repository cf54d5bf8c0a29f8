"""A tiny assembler of RISC-V, so that guests of tests need no other tool.

    code = program(li(T0, 5), label("loop"), addi(T0, T0, -1), bnez(T0, "loop"), WFI)

`program` gives the bytes; items are words (int), 16-bit instructions (`Half`), nested lists, labels and branches to labels.
"""

ZERO, RA, SP, GP, TP, T0, T1, T2, S0, S1 = range(10)
A0, A1, A2, A3, A4, A5, A6, A7 = range(10, 18)
S2, S3, S4, S5, S6, S7 = range(18, 24)
T3, T4, T5, T6 = 28, 29, 30, 31


class Half(int):
    """A compressed instruction."""


class Label(str):
    __slots__ = ()


class Align(int):
    """Compressed no-operations up to a multiple of this."""


class Jump:
    """A branch or jump to a label; `encode(offset)` gives the word."""

    def __init__(self, target, encode):
        self.target, self.encode = target, encode


def label(name):
    return Label(name)


def _flat(items):
    for item in items:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            yield item


def _size(item):
    if isinstance(item, Label):
        return 0
    if isinstance(item, bytes):
        return len(item)
    return 2 if isinstance(item, Half) else 4


def program(*items):
    flat, size = [], 0
    for item in _flat(items):
        parts = [item]
        if isinstance(item, Align):
            parts = [C_NOP] * (-size % item // 2)
        flat += parts
        size += sum(_size(part) for part in parts)
    places, at = {}, 0
    for item in flat:
        if isinstance(item, Label):
            places[str(item)] = at
        at += _size(item)
    out = bytearray()
    for item in flat:
        if isinstance(item, Label):
            continue
        if isinstance(item, bytes):
            out += item
        elif isinstance(item, Half):
            out += int(item).to_bytes(2, "little")
        else:
            word = item.encode(places[item.target] - len(out)) if isinstance(item, Jump) else item
            out += (word & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(out)


def _r(funct7, rs2, rs1, funct3, rd, opcode):  # noqa: PLR0917 - the fields of the format, in their order
    return funct7 << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def _i(imm, rs1, funct3, rd, opcode):
    return (imm & 0xFFF) << 20 | rs1 << 15 | funct3 << 12 | rd << 7 | opcode


def _s(imm, rs2, rs1, funct3, opcode=0x23):
    return (imm >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12 | (imm & 31) << 7 | opcode


def _b(rs1, rs2, funct3, target):
    def encode(o):
        return (
            (o >> 12 & 1) << 31 | (o >> 5 & 63) << 25 | rs2 << 20 | rs1 << 15 | funct3 << 12
            | (o >> 1 & 15) << 8 | (o >> 11 & 1) << 7 | 0x63
        )  # fmt: skip

    return Jump(target, encode)


def j(target, rd=ZERO):
    def encode(o):
        return (
            (o >> 20 & 1) << 31
            | (o >> 1 & 0x3FF) << 21
            | (o >> 11 & 1) << 20
            | (o >> 12 & 255) << 12
            | rd << 7
            | 0x6F
        )

    return Jump(target, encode)


def la(rd, target):
    """Address of a label within 2 KB ahead: auipc + addi, as two items."""
    return [0x17 | rd << 7, Jump(target, lambda o: _i(o + 4, rd, 0, rd, 0x13))]


def addi(rd, rs1, imm):
    return _i(imm, rs1, 0, rd, 0x13)


def slli(rd, rs1, n):
    return _i(n, rs1, 1, rd, 0x13)


def add(rd, rs1, rs2):
    return _r(0, rs2, rs1, 0, rd, 0x33)


def sub(rd, rs1, rs2):
    return _r(0x20, rs2, rs1, 0, rd, 0x33)


def xor(rd, rs1, rs2):
    return _r(0, rs2, rs1, 4, rd, 0x33)


def mul(rd, rs1, rs2):
    return _r(1, rs2, rs1, 0, rd, 0x33)


def li(rd, value):
    """Any 64-bit constant, in as many instructions as it takes."""
    value &= (1 << 64) - 1
    signed = value - (1 << 64) if value >> 63 else value
    if -2048 <= signed < 2048:
        return [addi(rd, ZERO, signed)]
    if -(1 << 31) <= signed < (1 << 31):
        low = (signed & 0xFFF) - (0x1000 if signed & 0x800 else 0)
        return [((signed - low) & 0xFFFFF000) | rd << 7 | 0x37, _i(low, rd, 0, rd, 0x1B)]
    low = (signed & 0xFFF) - (0x1000 if signed & 0x800 else 0)
    return [*li(rd, (signed - low) >> 12), slli(rd, rd, 12), addi(rd, rd, low)]


def load(size, rd, rs1, imm=0, *, unsigned=False):
    return _i(imm, rs1, {1: 0, 2: 1, 4: 2, 8: 3}[size] | (4 if unsigned else 0), rd, 0x03)


def store(size, rs2, rs1, imm=0):
    return _s(imm, rs2, rs1, {1: 0, 2: 1, 4: 2, 8: 3}[size])


def fld(rd, rs1, imm=0):
    return _i(imm, rs1, 3, rd, 0x07)


def fsd(rs2, rs1, imm=0):
    return _s(imm, rs2, rs1, 3, 0x27)


def amoadd_d(rd, rs2, rs1):
    return _r(0, rs2, rs1, 3, rd, 0x2F)


def lr_d(rd, rs1):
    return _r(2 << 2, 0, rs1, 3, rd, 0x2F)


def sc_d(rd, rs2, rs1):
    return _r(3 << 2, rs2, rs1, 3, rd, 0x2F)


def c_ld(rd, rs1, imm=0):
    return Half(3 << 13 | (imm >> 3 & 7) << 10 | (rs1 - 8) << 7 | (imm >> 6 & 3) << 5 | (rd - 8) << 2)


def c_sd(rs2, rs1, imm=0):
    return Half(7 << 13 | (imm >> 3 & 7) << 10 | (rs1 - 8) << 7 | (imm >> 6 & 3) << 5 | (rs2 - 8) << 2)


def c_lw(rd, rs1, imm=0):
    return Half(
        2 << 13
        | (imm >> 3 & 7) << 10
        | (rs1 - 8) << 7
        | (imm >> 2 & 1) << 6
        | (imm >> 6 & 1) << 5
        | (rd - 8) << 2
    )


def c_sw(rs2, rs1, imm=0):
    return Half(
        6 << 13
        | (imm >> 3 & 7) << 10
        | (rs1 - 8) << 7
        | (imm >> 2 & 1) << 6
        | (imm >> 6 & 1) << 5
        | (rs2 - 8) << 2
    )


def c_sdsp(rs2, imm=0):
    return Half(7 << 13 | (imm >> 3 & 7) << 10 | (imm >> 6 & 7) << 7 | rs2 << 2 | 2)


def c_ldsp(rd, imm=0):
    return Half(3 << 13 | (imm >> 5 & 1) << 12 | rd << 7 | (imm >> 3 & 3) << 5 | (imm >> 6 & 7) << 2 | 2)


def beq(rs1, rs2, target):
    return _b(rs1, rs2, 0, target)


def bne(rs1, rs2, target):
    return _b(rs1, rs2, 1, target)


def bltu(rs1, rs2, target):
    return _b(rs1, rs2, 6, target)


def bnez(rs1, target):
    return _b(rs1, ZERO, 1, target)


def beqz(rs1, target):
    return _b(rs1, ZERO, 0, target)


def jalr(rd, rs1, imm=0):
    return _i(imm, rs1, 0, rd, 0x67)


def csrw(csr, rs1):
    return _i(csr, rs1, 1, ZERO, 0x73)


def csrr(rd, csr):
    return _i(csr, ZERO, 2, rd, 0x73)


def csrs(csr, rs1):
    return _i(csr, rs1, 2, ZERO, 0x73)


def csrc(csr, rs1):
    return _i(csr, rs1, 3, ZERO, 0x73)


def csrrw(rd, csr, rs1):
    return _i(csr, rs1, 1, rd, 0x73)


def rdtime(rd):
    return csrr(rd, 0xC01)


NOP = 0x00000013
C_NOP = Half(0x0001)
ECALL = 0x00000073
EBREAK = 0x00100073
C_EBREAK = Half(0x9002)
MRET = 0x30200073
SRET = 0x10200073
WFI = 0x10500073
FENCE_I = 0x0000100F
SFENCE_VMA = 0x12000073
ILLEGAL = 0xFFFFFFFF

MSTATUS, MEDELEG, MIDELEG, MIE, MTVEC, MSCRATCH, MEPC, MCAUSE, MTVAL, MIP = (
    0x300, 0x302, 0x303, 0x304, 0x305, 0x340, 0x341, 0x342, 0x343, 0x344,
)  # fmt: skip
SSTATUS, SIE, STVEC, SSCRATCH, SEPC, SCAUSE, STVAL, SIP, SATP = (
    0x100, 0x104, 0x105, 0x140, 0x141, 0x142, 0x143, 0x144, 0x180,
)  # fmt: skip
PMPCFG0, PMPADDR0 = 0x3A0, 0x3B0

SET_TRAP = [la(T1, "trap"), csrw(MTVEC, T1)]
"""The start of a program that ends with `REPORT`; uses t1."""

REPORT = [
    Align(4),
    label("trap"),
    csrr(A5, MCAUSE),
    csrr(A6, MTVAL),
    csrr(A7, MEPC),
    label("halt"),
    WFI,
    j("halt"),
]
"""The end of a program: a trap leaves its cause in a5, mtval in a6 and its address in a7, and everything halts."""
