"""The registers of a 16550A and their bits, by the names of its data sheet (table II)."""


class Reg:
    """Numbers of the registers; several have two or three by direction and by DLAB."""

    RBR = THR = DLL = 0
    IER = DLM = 1
    IIR = FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Ier:
    """Interrupt enable."""

    ERBFI = 0x01  # received data available
    ETBEI = 0x02  # transmitter holding register empty
    ELSI = 0x04  # receiver line status
    EDSSI = 0x08  # modem status


class Iir:
    """Interrupt identification: the pending interrupt of the highest priority, and whether FIFOs are on."""

    NO_INTERRUPT = 0x01
    MODEM_STATUS = 0x00
    THR_EMPTY = 0x02
    RECEIVED_DATA = 0x04
    LINE_STATUS = 0x06
    TIMEOUT = 0x0C
    IDENTITY = 0x0F
    FIFOS_ENABLED = 0xC0


class Fcr:
    """FIFO control, write only."""

    ENABLE = 0x01
    RESET_RECEIVER = 0x02
    RESET_TRANSMITTER = 0x04
    KEPT = 0xC9  # enable, DMA mode and trigger level; the resets are momentary


TRIGGER_LEVELS = (1, 4, 8, 14)
"""Characters in the receiver FIFO that interrupt, by the two upper bits of FCR."""


class Lcr:
    """Line control: the format of a character."""

    WORD_LENGTH = 0x03  # 5 bits and that many more
    STOP_BITS = 0x04
    PARITY = 0x08
    DLAB = 0x80


class Mcr:
    """Modem control: output lines."""

    DTR = 0x01
    RTS = 0x02
    OUT1 = 0x04
    OUT2 = 0x08
    LOOP = 0x10
    ALL = 0x1F


class Lsr:
    """Line status."""

    DR = 0x01  # data ready
    OE = 0x02  # overrun
    PE = 0x04  # parity
    FE = 0x08  # framing
    BI = 0x10  # break
    THRE = 0x20  # transmitter holding register, or FIFO, empty
    TEMT = 0x40  # transmitter empty
    ERRORS = OE | PE | FE | BI
    EMPTY = THRE | TEMT


class Msr:
    """Modem status: input lines, and which of them have changed."""

    DCTS = 0x01
    DDSR = 0x02
    TERI = 0x04
    DDCD = 0x08
    CTS = 0x10
    DSR = 0x20
    RI = 0x40
    DCD = 0x80
    DELTAS = DCTS | DDSR | TERI | DDCD
    LINES = CTS | DSR | RI | DCD
