/* The console: a 16550A UART driven by interrupts, with a ring each way. */
#include "demo.h"

/* Registers as the data sheet names them (National Semiconductor PC16550D), one byte apart. */
enum { RBR = 0, THR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5 };
enum { IER_ERBFI = 1, IER_ETBEI = 2, IER_ELSI = 4 };
enum { FCR_ENABLE = 1, FCR_CLEAR = 6, LCR_8N1 = 3, MCR_DTR_RTS_OUT2 = 11 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 16, LSR_THRE = 32, LSR_TEMT = 64, FIFO_DEPTH = 16 };

enum { RING = 4096 }; /* a power of two */
struct ring {
    volatile uint32_t head, tail; /* they run on; the difference is what is held */
    char bytes[RING];
};
static struct ring received, sending;
uint64_t uart_interrupts, uart_breaks, uart_overruns;

static volatile uint8_t *uart(void)
{
    return (volatile uint8_t *)machine.uart_base;
}

void console_init(void)
{
    uart()[IER] = 0;
    uart()[LCR] = LCR_8N1;
    uart()[FCR] = FCR_ENABLE | FCR_CLEAR;
    uart()[MCR] = MCR_DTR_RTS_OUT2;
    uart()[IER] = IER_ERBFI | IER_ELSI;
}

void console_interrupt(void)
{
    uint8_t status;
    uart_interrupts++;
    (void)uart()[IIR];
    while ((status = uart()[LSR]) & (LSR_DR | LSR_BI | LSR_OE)) {
        char c = (char)uart()[RBR];
        uart_overruns += (status & LSR_OE) != 0;
        if (status & LSR_BI) {
            uart_breaks++;
            continue;
        }
        if (!(status & LSR_DR))
            continue;
        received.bytes[received.head++ % RING] = c;
        if (received.head - received.tail == RING) {
            /* Full: leave the rest in the UART, which holds the sender back. get_char() opens it again. */
            uart()[IER] &= ~(IER_ERBFI | IER_ELSI);
            break;
        }
    }
    if (status & LSR_THRE) {
        for (int room = FIFO_DEPTH; room && sending.head != sending.tail; room--)
            uart()[THR] = (uint8_t)sending.bytes[sending.tail++ % RING];
        if (sending.head == sending.tail)
            uart()[IER] &= ~IER_ETBEI;
    }
}

int get_char(void)
{
    csr_clear(sstatus, SSTATUS_SIE);
    while (received.head == received.tail)
        wait_for_interrupt();
    char c = received.bytes[received.tail++ % RING];
    if (received.head - received.tail == RING / 2)
        uart()[IER] |= IER_ERBFI | IER_ELSI;
    csr_set(sstatus, SSTATUS_SIE);
    return (uint8_t)c;
}

void put_char(char c)
{
    if (c == '\n')
        put_char('\r');
    csr_clear(sstatus, SSTATUS_SIE);
    while (sending.head - sending.tail == RING)
        wait_for_interrupt();
    sending.bytes[sending.head++ % RING] = c;
    uart()[IER] |= IER_ETBEI;
    csr_set(sstatus, SSTATUS_SIE);
}

void console_flush(void)
{
    csr_clear(sstatus, SSTATUS_SIE);
    while (sending.head != sending.tail)
        wait_for_interrupt();
    csr_set(sstatus, SSTATUS_SIE);
    while (!(uart()[LSR] & LSR_TEMT))
        ;
}

void put(const char *text)
{
    while (*text)
        put_char(*text++);
}

void put_number(uint64_t value)
{
    char digits[21];
    int i = 20;
    digits[i] = 0;
    do
        digits[--i] = (char)('0' + value % 10);
    while (value /= 10);
    put(digits + i);
}

void put_hex(uint64_t value)
{
    char digits[17];
    int i = 16;
    digits[i] = 0;
    do
        digits[--i] = "0123456789abcdef"[value & 15];
    while (value >>= 4);
    put("0x");
    put(digits + i);
}
