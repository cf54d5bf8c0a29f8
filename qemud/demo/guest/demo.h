/* The embedded guest: what its parts share. */
#ifndef DEMO_H
#define DEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the device tree says of the machine (fdt.c). */
struct machine {
    uint64_t memory_base, memory_size;
    uint64_t uart_base;
    uint32_t uart_irq;
    uint64_t plic_base;
    uint32_t plic_context; /* of this hart's S-mode */
    uint32_t timebase;     /* Hz of the time CSR */
    const char *bootargs;
};
extern struct machine machine;
void read_device_tree(const void *fdt);

/* The console (console.c): a 16550A driven by interrupts, with a ring each way. */
void console_init(void);
void console_interrupt(void);
int get_char(void); /* waits */
void put_char(char c);
void put(const char *text);
void put_number(uint64_t value);
void put_hex(uint64_t value);
void console_flush(void);
extern uint64_t uart_interrupts, uart_breaks, uart_overruns;

/* Traps, interrupts, time and the firmware (trap.c). */
enum { TICK_HZ = 10 };
void trap_init(void);
uint64_t trap(uint64_t cause, uint64_t pc, uint64_t value);
void set_tick_rate(uint64_t hz);
extern volatile uint64_t ticks;
extern uint64_t plic_claims;

struct fault {
    uint64_t cause, pc, value;
};
extern volatile bool fault_expected;
extern struct fault last_fault;

struct sbi_result {
    long error;
    long value;
};
struct sbi_result sbi(long extension, long function, uint64_t argument0, uint64_t argument1);
enum { SBI_BASE = 0x10, SBI_TIME = 0x54494d45, SBI_SRST = 0x53525354 };

void probe_load(uint64_t address, volatile uint64_t *marker);
void probe_store(uint64_t address, volatile uint64_t *marker);
void probe_jump(uint64_t address, volatile uint64_t *marker);
extern char probe_return[];
extern char _start[], _end[];

#define csr_read(name) ({ uint64_t v_; __asm__ volatile("csrr %0, " #name : "=r"(v_) :: "memory"); v_; })
#define csr_write(name, value) __asm__ volatile("csrw " #name ", %0" :: "r"((uint64_t)(value)) : "memory")
#define csr_set(name, bits) __asm__ volatile("csrs " #name ", %0" :: "r"((uint64_t)(bits)) : "memory")
#define csr_clear(name, bits) __asm__ volatile("csrc " #name ", %0" :: "r"((uint64_t)(bits)) : "memory")

enum { SSTATUS_SIE = 1 << 1, SIE_STIE = 1 << 5, SIE_SEIE = 1 << 9 };

/* Waits for an interrupt. Called with interrupts off, so that none is taken between a test and the wait; wfi ends all the
 * same when one is pending, and it is taken here. */
static inline void wait_for_interrupt(void)
{
    __asm__ volatile("wfi" ::: "memory");
    csr_set(sstatus, SSTATUS_SIE);
    csr_clear(sstatus, SSTATUS_SIE);
}

#endif
