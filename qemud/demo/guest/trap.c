/* Traps, the PLIC, the timer and calls of the firmware. */
#include "demo.h"

enum { CAUSE_TIMER = 5, CAUSE_EXTERNAL = 9, CAUSE_FETCH_ACCESS = 1 };
#define CAUSE_INTERRUPT (1ull << 63)

/* Offsets of the PLIC (RISC-V Platform-Level Interrupt Controller Specification 1.0, chapter 3). */
enum { PLIC_PRIORITY = 0, PLIC_ENABLE = 0x2000, PLIC_THRESHOLD = 0x200000, PLIC_CLAIM = 0x200004 };

volatile uint64_t ticks;
uint64_t plic_claims;
volatile bool fault_expected;
struct fault last_fault;
static uint64_t tick_interval;

static volatile uint32_t *plic(uint64_t offset)
{
    return (volatile uint32_t *)(machine.plic_base + offset);
}

struct sbi_result sbi(long extension, long function, uint64_t argument0, uint64_t argument1)
{
    register uint64_t a0 __asm__("a0") = argument0;
    register uint64_t a1 __asm__("a1") = argument1;
    register long a6 __asm__("a6") = function;
    register long a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a6), "r"(a7) : "memory");
    return (struct sbi_result){ (long)a0, (long)a1 };
}

void set_tick_rate(uint64_t hz)
{
    tick_interval = machine.timebase / hz;
    sbi(SBI_TIME, 0, csr_read(time) + tick_interval, 0);
}

void trap_init(void)
{
    *plic(PLIC_PRIORITY + 4 * machine.uart_irq) = 1;
    plic(PLIC_ENABLE + 0x80 * machine.plic_context)[machine.uart_irq / 32] = 1u << machine.uart_irq % 32;
    *plic(PLIC_THRESHOLD + 0x1000 * machine.plic_context) = 0;
    csr_write(sie, SIE_STIE | SIE_SEIE);
    csr_set(sstatus, SSTATUS_SIE);
}

static void external_interrupt(void)
{
    volatile uint32_t *claim = plic(PLIC_CLAIM + 0x1000 * machine.plic_context);
    uint32_t source;
    while ((source = *claim)) {
        plic_claims++;
        if (source == machine.uart_irq)
            console_interrupt();
        *claim = source;
    }
}

uint64_t trap(uint64_t cause, uint64_t pc, uint64_t value)
{
    if (cause == (CAUSE_INTERRUPT | CAUSE_TIMER)) {
        ticks++;
        sbi(SBI_TIME, 0, csr_read(time) + tick_interval, 0);
        return pc;
    }
    if (cause == (CAUSE_INTERRUPT | CAUSE_EXTERNAL)) {
        external_interrupt();
        return pc;
    }
    last_fault = (struct fault){ cause, pc, value };
    if (fault_expected) {
        fault_expected = false;
        return (uint64_t)probe_return;
    }
    put("\ntrap: cause ");
    put_number(cause);
    put(", pc ");
    put_hex(pc);
    put(", value ");
    put_hex(value);
    put(": halted\n");
    console_flush();
    sbi(SBI_SRST, 0, 0, 1);
    for (;;)
        ;
}
