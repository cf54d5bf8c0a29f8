/*
 * The native part of the Unicorn accelerator: what Python cannot do safely or fast.
 *
 * A Core is the glue of one engine.  It delivers traps without entering Python, raises precise access faults (they longjmp, so
 * they must never be entered from Python), finds the device behind an address, tells the guest the time, notices kicks at
 * block boundaries and fires them on time.  `twin.py` is the same in Python; the tests hold one to the other.
 *
 * No header of Unicorn is needed: functions and fields of the engine come in as addresses, which layout.py has found and
 * checked.  In comments "cs" is the engine's CPUState, "env" its CPURISCVState.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

/* Exceptions of the privileged architecture (table "mcause", v1.12) and the engine's one number for every ecall. */
enum { FETCH_FAULT = 1, BREAKPOINT = 3, LOAD_FAULT = 5, STORE_FAULT = 7, ECALL = 8 };
enum { FETCH_PAGE_FAULT = 12, LOAD_PAGE_FAULT = 13, STORE_PAGE_FAULT = 15 };

/* What mem_io_pc holds outside of a guest's own access: a device callback that finds it is a page-table walk. */
#define NO_ACCESS ((uintptr_t)1)

/* mstatus: supervisor may touch user pages; machine mode accesses as the mode before. */
enum { STATUS_MPRV = 1 << 17, STATUS_SUM = 1 << 18 };
enum { MODE_S = 1, FETCH = 2, SSTATUS = 0x100 };
static const int cycles[] = {0xb00, 0xc00}, instructions[] = {0xb02, 0xc02}; /* mcycle, cycle; minstret, instret */

/* A kick can be lost: the engine clears its flags without a barrier.  The watchdog repeats it after RETRY; it looks after
 * a running guest every TICK even when no timer is due. */
#define TICK (2 * 1000 * 1000)
#define RETRY (200 * 1000)

typedef struct {
    uint64_t base, end;
    PyObject *read, *write;
} Registers;

/* RAM or ROM from `base` to `end`; the engine's own addresses of it begin at `ram_address`, the host's at `host`.  A byte for each
 * page in `code` says whether there may be translated code from it. */
typedef struct {
    uint64_t base, end, ram_address, host;
    uint8_t *code;
} Span;

/* The engine maps each stretch without RAM as one region, from `base`; its callbacks get offsets and a pointer to this. */
typedef struct Gap {
    struct Core *core;
    uint64_t base;
    struct Gap *next;
} Gap;

#define OPENED 16

/* A block of translated code and the page of RAM, as the host has it, that its guest code begins in. */
typedef struct {
    void *block;
    uint64_t page;
} Known;

#define KNOWN_BITS 15

/* riscv_csr_operations */
typedef struct {
    void *predicate;
    int (*read)(void *env, int number, uint64_t *value);
    int (*write)(void *env, int number, uint64_t value);
    void *op;
} CsrOps;

typedef struct Core {
    PyObject_HEAD

    /* The engine: handles, fields and functions, by address. */
    void *uc, *cs, *env;
    uint32_t *interrupt_request, *next_block;
    uint16_t *icount_high;
    int32_t *exception_index;
    uintptr_t *mem_io_pc;
    uint64_t *pc, *badaddr, *priv, *mip, *mstatus, *gpr;
    int (*emu_start)(void *, uint64_t, uint64_t, uint64_t, size_t);
    int (*emu_stop)(void *);
    void (*do_interrupt)(void *cs);
    bool (*exec_interrupt)(void *cs, int request);
    void (*raise_exception)(void *env, uint32_t exception, uintptr_t host_pc);
    bool (*restore_state)(void *cs, uintptr_t host_pc, bool will_exit);
    void (*loop_exit)(void *cs);
    uint32_t (*update_mip)(void *cs, uint32_t mask, uint32_t value);
    void *(*code_at)(void *env, uint64_t address, int access, int mmu_idx);
    uint64_t (*physical)(void *cs, uint64_t address);
    bool (*tlb_fill)(void *cs, uint64_t address, int size, int access, int mmu_idx, bool probe, uintptr_t host_pc);
    void (*flush_page)(void *cs, uint64_t address, uint16_t modes);
    void (*flush_modes)(void *cs, uint16_t modes);
    void (*get_csr_ops)(int number, CsrOps *ops);
    void (*set_csr_ops)(int number, CsrOps *ops);
    void (*invalidate)(void *uc, uint64_t begin, uint64_t end);
    void (*reset_dirty_host)(void *cs, uint64_t host, uint64_t length);
    void (*protect_code)(void *uc, uint64_t ram_address);
    void (*written_code)(void *uc, void *pages, uint64_t ram_address, int length, uintptr_t host_pc);
    void (*set_dirty)(void *cs, uint64_t address);
    void (*reset_dirty)(void *cs, uint64_t start, uint64_t length);
    void *(*find_block)(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, uint32_t cflags);

    /* Python: who is told, the device registers sorted by base, and the exception that stands for an access fault. */
    PyObject *handler, *fault;
    Registers *registers;
    Py_ssize_t count;

    /* RAM and ROM. */
    Span *spans;
    Py_ssize_t span_count;
    Gap *gaps;

    /* The clock: nanoseconds of the guest are host nanoseconds + offset, or `frozen` when that is not negative. */
    int64_t offset, frozen, ns_per_tick;

    int attention; /* somebody wants the machine thread; atomic */
    int leaving;   /* stop at the next block boundary */
    int ecalls;    /* ecalls of S-mode go to the handler */
    int walk_fault;

    /* Pages that S-mode has got into the TLB while mstatus.SUM was set; more than OPENED: too many to list. */
    uint64_t opened[OPENED];
    int opened_count;

    uint64_t written; /* where the guest is just writing to RAM that may hold code, as the engine counts; see hook_written */

    /* Blocks found before, and how often the engine had emptied its store of blocks then; see hook_lookup. */
    Known *known;
    uint32_t known_since;

    int in_device; /* a device's callback is being called: the guest is in the middle of a block */

    /* Counted instructions; see hook_block.  `counting` is off or what a number of instructions is shifted by to be nanoseconds, plus 1. */
    int counting;
    int64_t counted, limit; /* how many there were; before which one the handler wants to be called */
    int64_t called;         /* before which one it last was: a timer that is always due must not hold up the guest */
    int64_t ahead;          /* those of the block that is running that come after a device's callback */
    void *block;            /* what is counted as a whole already, if it may yet be left in the middle */
    void **block_user;      /* where the engine's hook has its user datum */
    void *(*new_block)(void *tcg_context);

    /* The watchdog, under `lock`. */
    pthread_t watchdog;
    pthread_mutex_t lock;
    int timer, in_guest, closing, started;
    int64_t deadline; /* host nanoseconds, or -1 */
} Core;

/* rdtime and the interrupt check get no argument of ours; each engine runs in one thread at a time. */
static __thread Core *current;

static int64_t host_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static int64_t guest_now(const Core *core)
{
    if (core->frozen >= 0)
        return core->frozen;
    return core->offset + (core->counting ? (core->counted - core->ahead) << (core->counting - 1) : host_now());
}

static uint64_t read_time(void)
{
    return current ? (uint64_t)(guest_now(current) / current->ns_per_tick) : 0;
}

/* The read operation of cycle and instret, where the engine has the host's counter, which runs on while the guest is stopped. */
static int read_cycle(void *env, int number, uint64_t *value)
{
    *value = current ? (uint64_t)guest_now(current) : 0;
    return 0;
}

static int read_instret(void *env, int number, uint64_t *value)
{
    if (current && current->counting)
        *value = (uint64_t)(current->counted - current->ahead);
    else
        read_cycle(env, number, value);
    return 0;
}

/* Kicks ------------------------------------------------------------------------------------------------------------- */

/* Have hook_interrupt called at the next block boundary.  In the machine thread, unless nothing is counted. */
static void interrupt(Core *core)
{
    __atomic_or_fetch(core->interrupt_request, 2, __ATOMIC_SEQ_CST);
    __atomic_store_n(core->icount_high, 0xffff, __ATOMIC_SEQ_CST);
}

/* The same from any thread; where blocks are counted, hook_block looks what there is. */
static void nudge(Core *core)
{
    if (core->counting)
        __atomic_or_fetch(core->interrupt_request, 2, __ATOMIC_SEQ_CST);
    else
        interrupt(core);
}

static void kick(Core *core)
{
    __atomic_store_n(&core->attention, 1, __ATOMIC_SEQ_CST);
    nudge(core);
}

static void set_timer(Core *core, int64_t when)
{
    if (when < 1)
        when = 1; /* 0 would disarm it */
    struct itimerspec t = {{0, 0}, {when / NS, when % NS}};
    timerfd_settime(core->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

static int64_t next_look(const Core *core, int64_t now, int64_t span)
{
    int64_t when = now + span;
    return core->deadline >= 0 && core->deadline < when ? core->deadline : when;
}

static void *watch(void *argument)
{
    Core *core = argument;
    uint64_t expirations;
    for (;;) {
        ssize_t got = read(core->timer, &expirations, sizeof expirations);
        if (got < 0 && errno != EINTR)
            return NULL;
        pthread_mutex_lock(&core->lock);
        if (core->closing) {
            pthread_mutex_unlock(&core->lock);
            return NULL;
        }
        if (core->in_guest) {
            int64_t now = host_now();
            bool due = core->deadline >= 0 && core->deadline <= now;
            if (due)
                core->deadline = -1; /* the machine thread arms the next one */
            bool attention = due || __atomic_load_n(&core->attention, __ATOMIC_SEQ_CST);
            bool pending = attention || __atomic_load_n(&core->leaving, __ATOMIC_SEQ_CST);
            if (attention)
                kick(core);
            else if (pending)
                nudge(core);
            set_timer(core, next_look(core, now, pending ? RETRY : TICK));
        }
        pthread_mutex_unlock(&core->lock);
    }
}

/* Between blocks: is the number of instructions reached that the handler wants to be called at?  It is told once, and when it
 * wants to be called again, not before another instruction has run. */
static void look_at_limit(Core *core)
{
    if (core->counted < core->limit || core->counted == core->called)
        return;
    core->called = core->counted;
    core->limit = INT64_MAX; /* the machine thread sets the next one */
    __atomic_store_n(&core->attention, 1, __ATOMIC_SEQ_CST);
}

/* Calls into Python -------------------------------------------------------------------------------------------------- */

/* A callback failed: the handler is told of the exception, and nothing of it passes through the engine's frames. */
static void report_failure(Core *core)
{
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (value && trace)
        PyException_SetTraceback(value, trace);
    PyObject *r = PyObject_CallMethod(core->handler, "failed", "O", value ? value : Py_None);
    if (!r)
        PyErr_WriteUnraisable(core->handler);
    Py_XDECREF(r);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
}

static void attend(Core *core)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *r = PyObject_CallMethod(core->handler, "attention", NULL);
    if (!r)
        report_failure(core);
    Py_XDECREF(r);
    PyGILState_Release(gil);
}

static bool handle_ecall(Core *core)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *r = PyObject_CallMethod(core->handler, "ecall", NULL);
    bool handled = true;
    if (r)
        handled = PyObject_IsTrue(r) == 1;
    else
        report_failure(core);
    Py_XDECREF(r);
    PyGILState_Release(gil);
    return handled;
}

/* Hooks of the engine ------------------------------------------------------------------------------------------------ */

/* Replaces the CPU class's interrupt check: called between blocks while bit 2 of interrupt_request is set.  True makes the
 * engine forget which block it came from, which it must when Python may have changed pc. */
static bool hook_interrupt(void *cs, int request)
{
    Core *core = current;
    bool entered = false;
    core->block = NULL;
    if (core->counting)
        look_at_limit(core); /* timers come before interrupts, whoever else has kicked */
    if (__atomic_exchange_n(&core->attention, 0, __ATOMIC_SEQ_CST)) {
        attend(core);
        entered = true;
    }
    if (core->leaving) {
        core->emu_stop(core->uc);
        return true;
    }
    bool taken = core->exec_interrupt(cs, request | 2);
    if (!taken && !*core->mip) {
        __atomic_and_fetch(core->interrupt_request, ~2u, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&core->attention, __ATOMIC_SEQ_CST))
            __atomic_or_fetch(core->interrupt_request, 2, __ATOMIC_SEQ_CST);
    }
    return taken || entered;
}

/* UC_HOOK_INTR: an exception of the guest.  The engine has added 4 to pc, whatever the instruction's length. */
static void hook_exception(void *uc, uint32_t number, void *user)
{
    Core *core = user;
    core->block = NULL;
    if (number == ECALL && core->ecalls && *core->priv == 1 && handle_ecall(core))
        return;
    *core->pc -= 4;
    if (core->walk_fault) {
        /* A page table in a hole: an access fault of the access that needed it, not a page fault. */
        core->walk_fault = 0;
        if (number == FETCH_PAGE_FAULT)
            number = FETCH_FAULT;
        else if (number == LOAD_PAGE_FAULT)
            number = LOAD_FAULT;
        else if (number == STORE_PAGE_FAULT)
            number = STORE_FAULT;
    }
    if ((number == FETCH_FAULT || number == FETCH_PAGE_FAULT) && *core->badaddr - *core->pc > 2) {
        /* The translator failed at a later instruction of the block, of which nothing has run.  Run one instruction and
         * look again. */
        *core->next_block = 1;
        return;
    }
    *core->exception_index = (int32_t)number;
    core->do_interrupt(core->cs);
}

/* UC_HOOK_INSN_INVALID: ebreak comes here, with pc still at it. */
static bool hook_breakpoint(void *uc, void *user)
{
    Core *core = user;
    if (*core->exception_index != BREAKPOINT)
        return false;
    core->do_interrupt(core->cs);
    return true;
}

/* The engine flushes its whole TLB whenever mstatus.SUM changes, and Linux changes it twice a system call.  But nothing is to be
 * forgotten when it is set, and when it is cleared, no more than what came in meanwhile. */

static bool (*tlb_fill)(void *cs, uint64_t address, int size, int access, int mmu_idx, bool probe, uintptr_t host_pc);
static int (*write_sstatus)(void *env, int number, uint64_t value);

/* The CPU class's tlb_fill. */
static bool hook_fill(void *cs, uint64_t address, int size, int access, int mmu_idx, bool probe, uintptr_t host_pc)
{
    Core *core = current;
    if (core && core->cs == cs && mmu_idx == MODE_S && access != FETCH && *core->mstatus & STATUS_SUM &&
        core->opened_count <= OPENED) {
        if (core->opened_count < OPENED)
            core->opened[core->opened_count] = address & ~(uint64_t)0xfff;
        core->opened_count++;
    }
    return tlb_fill(cs, address, size, access, mmu_idx, probe, host_pc);
}

/* The write operation of sstatus, for all engines of the process. */
static int hook_sstatus(void *env, int number, uint64_t value)
{
    Core *core = current;
    if (core && core->env == env && (*core->mstatus ^ value) & STATUS_SUM && !(*core->mstatus & STATUS_MPRV)) {
        *core->mstatus ^= STATUS_SUM; /* the original sees no change, and flushes nothing */
        if (!(value & STATUS_SUM)) {
            if (core->opened_count > OPENED)
                core->flush_modes(core->cs, 1 << MODE_S);
            else
                for (int i = 0; i < core->opened_count; i++)
                    core->flush_page(core->cs, core->opened[i], 1 << MODE_S);
            core->opened_count = 0;
        }
    }
    return write_sstatus(env, number, value);
}

/* Functions of the engine that linkage.py replaces for the whole process: they also come without a Core that runs ---------- */

/* Code that is written to.  The engine notices a guest's store into a page of code by the virtual address that the code was
 * translated at, and drops the blocks that were hit.  Through another address, without the right to execute, it notices the first store
 * only, and goes on to run what else was translated from the page: Linux, which loads a module where the first code of another
 * one was, runs the old code.  So all addresses of a page lose their right to unnoticed writes when code is first translated from
 * it, and before one gets it back, nothing translated is left of the page. */

static void (*protect_code)(void *uc, uint64_t ram_address);
static void (*written_code)(void *uc, void *pages, uint64_t ram_address, int length, uintptr_t host_pc);
static void (*set_dirty)(void *cs, uint64_t address);

static Span *span_at(const Core *core, uint64_t ram_address)
{
    for (Py_ssize_t i = 0; i < core->span_count; i++) {
        Span *span = &core->spans[i];
        if (ram_address - span->ram_address < span->end - span->base)
            return span;
    }
    return NULL;
}

/* tlb_protect_code: the first block of a page has been translated. */
static void hook_protect(void *uc, uint64_t ram_address)
{
    Core *core = current;
    Span *span = core && core->uc == uc ? span_at(core, ram_address) : NULL;
    if (span) {
        uint64_t offset = (ram_address - span->ram_address) & ~(uint64_t)0xfff;
        span->code[offset >> 12] = 1;
        core->reset_dirty_host(core->cs, span->host + offset, 0x1000);
    }
    protect_code(uc, ram_address);
}

/* tb_invalidate_phys_page_fast: a store that is noticed drops the blocks that it hits. */
static void hook_written(void *uc, void *pages, uint64_t ram_address, int length, uintptr_t host_pc)
{
    if (current && current->uc == uc)
        current->written = ram_address;
    written_code(uc, pages, ram_address, length, host_pc);
}

/* tlb_set_dirty, which follows it: stores by way of this address are no longer noticed. */
static void hook_set_dirty(void *cs, uint64_t address)
{
    Core *core = current;
    Span *span = core && core->cs == cs ? span_at(core, core->written) : NULL;
    if (span) {
        uint64_t offset = (core->written - span->ram_address) & ~(uint64_t)0xfff;
        if (span->code[offset >> 12]) {
            core->invalidate(core->uc, span->ram_address + offset, span->ram_address + offset + 0x1000);
            span->code[offset >> 12] = 0;
        }
    }
    set_dirty(cs, address);
}

/* Two more are replaced by faster ones, where layout.py finds the code that these offsets are from. */

enum {
    UC_TCG_CONTEXT = 0x300,
    TCG_FLUSH_COUNT = 0x88d0,
    CS_TRACE = 0x8188,
    TLB_FAST = -0x50,     /* from env, for each of TLB_MODES: mask of the index << 6, table */
    TLB_VICTIMS = -0xb00, /* TLB_VICTIM_COUNT entries for each, TLB_DESCRIPTION bytes apart */
    TLB_DESCRIPTION = 0x2b8,
    TLB_MODES = 4,
    TLB_VICTIM_COUNT = 8,
    TLB_ENTRY = 64,
    ENTRY_WRITE = 8,
    ENTRY_CODE = 16,
    ENTRY_ADDEND = 32,
    ENTRY_NOT_PLAIN = 0xe40, /* flags of an address where stores are noticed already, or that is no RAM */
    ENTRY_NOTICED = 0x400,
    BLOCK_PC = 0,
    BLOCK_CS_BASE = 8,
    BLOCK_FLAGS = 0x10,
    BLOCK_CFLAGS = 0x18,
    BLOCK_TRACE = 0x1c,
    BLOCK_SECOND_PAGE = 0x50,
};
#define BLOCK_CFLAGS_COMPARED 0xff0effffu

static void *(*find_block)(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, uint32_t cflags);
static void (*reset_dirty)(void *cs, uint64_t start, uint64_t length);

#define AT(type, base, offset) (*(type *)((char *)(base) + (offset)))

static char *tlb_entry(void *env, int mode, uint64_t address)
{
    uint64_t mask = AT(uint64_t, env, TLB_FAST + 16 * mode);
    return AT(char *, env, TLB_FAST + 16 * mode + 8) + (address >> 12 & mask >> 6) * TLB_ENTRY;
}

static void notice_stores(char *entry, uint64_t page)
{
    uint64_t *address = &AT(uint64_t, entry, ENTRY_WRITE);
    if (!(*address & ENTRY_NOT_PLAIN) && (*address & ~(uint64_t)0xfff) == page)
        *address |= ENTRY_NOTICED;
}

/* tlb_reset_dirty_by_vaddr: stores to the pages of a new block are to be noticed.  The original looks at the whole TLB for each
 * block; but a page can be in one place only, and among the victims. */
static void hook_reset_dirty(void *cs, uint64_t start, uint64_t length)
{
    Core *core = current;
    if (!core || core->cs != cs || start & 0xfff || length > 0x10000) {
        reset_dirty(cs, start, length);
        return;
    }
    for (uint64_t page = start; page - start < length; page += 0x1000)
        for (int mode = 0; mode < TLB_MODES; mode++) {
            notice_stores(tlb_entry(core->env, mode, page), page);
            char *victims = (char *)core->env + TLB_VICTIMS + TLB_DESCRIPTION * mode;
            for (int i = 0; i < TLB_VICTIM_COUNT; i++)
                notice_stores(victims + TLB_ENTRY * i, page);
        }
}

/* tb_htable_lookup: the block of guest code at `pc`, or NULL.  The engine asks whenever it is not in its cache of jumps, which
 * it empties with every change of address space; its own table costs several misses of the host's cache.  Ours has blocks within
 * one page.  A block that is no longer valid says so in its flags, until all are thrown away at once. */
static void *hook_lookup(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, uint32_t cflags)
{
    Core *core = current;
    if (!core || core->cs != cs)
        return find_block(cs, pc, cs_base, flags, cflags);
    uint32_t flushes = AT(uint32_t, AT(void *, core->uc, UC_TCG_CONTEXT), TCG_FLUSH_COUNT);
    if (flushes != core->known_since) {
        memset(core->known, 0, sizeof(Known) << KNOWN_BITS);
        core->known_since = flushes;
    }
    uint64_t page = 0;
    Known *known = NULL;
    char *entry = tlb_entry(core->env, (int)*core->priv, pc);
    if (AT(uint64_t, entry, ENTRY_CODE) == (pc & ~(uint64_t)0xfff)) {
        page = (pc + AT(uint64_t, entry, ENTRY_ADDEND)) & ~(uint64_t)0xfff;
        known = &core->known[(pc >> 1 ^ pc >> (KNOWN_BITS + 1) ^ page >> 12) & ((1 << KNOWN_BITS) - 1)];
        void *block = known->block;
        if (block && known->page == page && AT(uint64_t, block, BLOCK_PC) == pc &&
            AT(uint64_t, block, BLOCK_CS_BASE) == cs_base && AT(uint32_t, block, BLOCK_FLAGS) == flags &&
            (AT(uint32_t, block, BLOCK_CFLAGS) & BLOCK_CFLAGS_COMPARED) == cflags &&
            AT(uint32_t, block, BLOCK_TRACE) == AT(uint32_t, cs, CS_TRACE))
            return block;
    }
    void *block = find_block(cs, pc, cs_base, flags, cflags);
    if (block && known && AT(uint64_t, block, BLOCK_SECOND_PAGE) == (uint64_t)-1)
        *known = (Known){block, page};
    return block;
}

/* Counted instructions ------------------------------------------------------------------------------------------------ */

/* Where instructions are counted, the engine calls hook_block at the beginning of each block, before it looks whether it is to leave.
 * The block's instructions are all counted there.  If it is left in the middle, those that have not run are taken off again when the engine
 * looks for the instruction that it was at.  So the count is exact between blocks; in a device's callback `ahead` makes it so.
 *
 * Nobody but the machine thread may set icount_high then: a block that is left at once must not have been counted. */

enum { BLOCK_SIZE = 0x14, BLOCK_COUNT = 0x16, BLOCK_CODE = 0x20, BLOCK_CODE_SIZE = 0x28 };

static bool (*restore_state)(void *cs, uintptr_t host_pc, bool will_exit);
static void *(*new_block)(void *tcg_context);

/* tcg_tb_alloc: a block is going to be translated, and the block is what its call of hook_block is to be told. */
static void *hook_new_block(void *tcg_context)
{
    void *block = new_block(tcg_context);
    if (current && current->counting)
        *current->block_user = block;
    return block;
}

/* UC_HOOK_BLOCK */
static void hook_block(void *uc, uint64_t address, uint32_t size, void *block)
{
    Core *core = current;
    core->block = NULL;
    if (*core->icount_high)
        return; /* it is left at once */
    look_at_limit(core);
    if (__atomic_load_n(&core->attention, __ATOMIC_SEQ_CST) || core->leaving) {
        interrupt(core);
        return;
    }
    int64_t count = AT(uint16_t, block, BLOCK_COUNT), left = core->limit - core->counted;
    if (count > 1 && count > left) {
        *core->next_block = left > 1 ? (uint32_t)left : 1; /* a shorter one from here */
        __atomic_store_n(core->icount_high, 0xffff, __ATOMIC_SEQ_CST);
        return;
    }
    core->counted += count;
    core->block = block;
}

/* How many instructions of the block come before the one at pc.  Behind its code the engine keeps for each the distance to the one before,
 * of guest addresses and of host addresses, as signed LEB128. */
static int64_t instructions_before(const Core *core, void *block, uint64_t pc)
{
    const uint8_t *p = AT(uint8_t *, block, BLOCK_CODE) + AT(uint64_t, block, BLOCK_CODE_SIZE);
    uint64_t address = AT(uint64_t, block, BLOCK_PC);
    int64_t count = AT(uint16_t, block, BLOCK_COUNT);
    for (int64_t i = 0; i < count; i++) {
        for (int host = 0; host < 2; host++) {
            uint64_t value = 0;
            unsigned shift = 0;
            uint8_t byte;
            do {
                byte = *p++;
                value |= (uint64_t)(byte & 0x7f) << shift;
                shift += 7;
            } while (byte & 0x80 && shift < 64);
            if (byte & 0x40 && shift < 64)
                value |= ~(uint64_t)0 << shift;
            if (!host)
                address += value;
        }
        if (address == pc)
            return i;
    }
    return count;
}

/* The block is left with `done` instructions of those from pc on done. */
static void leave_block(Core *core, int done)
{
    if (core->block)
        core->counted -=
            AT(uint16_t, core->block, BLOCK_COUNT) - instructions_before(core, core->block, *core->pc) - done;
    core->block = NULL;
}

/* cpu_restore_state: pc is to be that of the instruction whose code is at `host_pc`. */
static bool hook_restore(void *cs, uintptr_t host_pc, bool will_exit)
{
    Core *core = current;
    bool found = restore_state(cs, host_pc, will_exit);
    if (found && will_exit && core && core->cs == cs && core->counting)
        leave_block(core, 0);
    return found;
}

/* A device's callback is going to be called by the instruction whose code is at `host_pc`. */
static void enter_device(Core *core, uintptr_t host_pc)
{
    core->in_device++;
    if (core->counting && core->block && core->restore_state(core->cs, host_pc, false))
        core->ahead = AT(uint16_t, core->block, BLOCK_COUNT) - instructions_before(core, core->block, *core->pc) - 1;
}

static void leave_device(Core *core)
{
    core->in_device--;
    core->ahead = 0;
}

/* Accesses outside RAM ----------------------------------------------------------------------------------------------- */

/* The instruction at pc, or 0 when its page is not to be had without a fault. */
static uint32_t instruction(Core *core)
{
    uint64_t pc = *core->pc;
    uint16_t *low = core->code_at(core->env, pc, 2, (int)*core->priv);
    if (!low)
        return 0;
    if ((*low & 3) != 3)
        return *low;
    uint16_t *high = (pc + 2) & 0xfff ? low + 1 : core->code_at(core->env, pc + 2, 2, (int)*core->priv);
    return high ? (uint32_t)*high << 16 | *low : 0;
}

/* Bits `from`.. (`count` of them) of the instruction, put at `to`. */
static uint32_t field(uint32_t word, int from, int count, int to)
{
    return (word >> from & ((1u << count) - 1)) << to;
}

/* The virtual address that a load or store instruction names (unprivileged ISA, chapters "RV64I", "A", "C"). */
static bool effective_address(const Core *core, uint32_t word, uint64_t *address, bool *store)
{
    const uint64_t *x = core->gpr;
    int funct3 = word >> 13 & 7;
    switch (word & 3) {
    case 3:
        switch (word & 0x7f) {
        case 0x03: /* LOAD, LOAD-FP */
        case 0x07:
            *address = x[word >> 15 & 31] + (int64_t)((int32_t)word >> 20);
            *store = false;
            return true;
        case 0x23: /* STORE, STORE-FP */
        case 0x27:
            *address = x[word >> 15 & 31] + (int64_t)(((int32_t)word >> 25) * 32 + (int32_t)field(word, 7, 5, 0));
            *store = true;
            return true;
        case 0x2f: /* AMO: everything but LR counts as a store */
            *address = x[word >> 15 & 31];
            *store = word >> 27 != 2;
            return true;
        }
        return false;
    case 0: { /* C.FLD C.LW C.LD, C.FSD C.SW C.SD */
        if (funct3 == 0 || funct3 == 4)
            return false;
        uint32_t offset = field(word, 10, 3, 3);
        offset |= (funct3 & 3) == 2 ? field(word, 6, 1, 2) | field(word, 5, 1, 6) : field(word, 5, 2, 6);
        *address = x[8 + field(word, 7, 3, 0)] + offset;
        *store = funct3 > 4;
        return true;
    }
    case 2: { /* C.FLDSP C.LWSP C.LDSP, C.FSDSP C.SWSP C.SDSP */
        uint32_t offset;
        if (funct3 == 0 || funct3 == 4)
            return false;
        if (funct3 == 2)
            offset = field(word, 12, 1, 5) | field(word, 4, 3, 2) | field(word, 2, 2, 6);
        else if (funct3 < 4)
            offset = field(word, 12, 1, 5) | field(word, 5, 2, 3) | field(word, 2, 3, 6);
        else if (funct3 == 6)
            offset = field(word, 9, 4, 2) | field(word, 7, 2, 6);
        else
            offset = field(word, 10, 3, 3) | field(word, 7, 3, 6);
        *address = x[2] + offset;
        *store = funct3 > 4;
        return true;
    }
    }
    return false;
}

/* Raise an access fault of the instruction that is being executed.  Longjmps into the engine: no Python frame and no lock may
 * be on the stack above it. */
static __attribute__((noreturn)) void raise_fault(Core *core, uint64_t physical, uintptr_t host_pc, bool store)
{
    uint64_t pc, address = physical;
    uint32_t exception = store ? STORE_FAULT : LOAD_FAULT;
    if (!host_pc) { /* the translator was reading code; pc is where the block begins */
        pc = *core->pc;
        *core->badaddr = (physical & 0xfff) < (pc & 0xfff) ? (pc | 0xfff) + 1 : pc;
        core->raise_exception(core->env, FETCH_FAULT, 0);
    }
    core->restore_state(core->cs, host_pc, true);
    leave_block(core, 0);
    if (effective_address(core, instruction(core), &address, &store)) {
        exception = store ? STORE_FAULT : LOAD_FAULT;
        /* An access over a page boundary whose first part went well: the second page is at fault. */
        if ((address & 0xfff) > 0xff8 && (physical & 0xfff) < 8)
            address = (address | 0xfff) + 1;
    }
    *core->badaddr = address;
    core->raise_exception(core->env, exception, 0);
    __builtin_unreachable();
}

/* Leave behind a store that is done: the block's other instructions must not run. */
static void leave_after_store(Core *core, uintptr_t host_pc, unsigned size)
{
    uint64_t address;
    bool store;
    core->restore_state(core->cs, host_pc, true);
    uint32_t word = instruction(core);
    /* Anything but an aligned store of its whole width has more to do; it ends with its block. */
    if (!effective_address(core, word, &address, &store) || !store || (word & 0x7f) == 0x2f || (address & (size - 1)))
        return;
    unsigned width = (word & 3) == 3 ? 1u << (word >> 12 & 3) : (word >> 13 & 3) == 2 ? 4 : 8;
    if (width != size)
        return;
    leave_block(core, 1);
    *core->pc += (word & 3) == 3 ? 4 : 2;
    *core->exception_index = -1;
    core->loop_exit(core->cs);
}

static const Registers *find(const Core *core, uint64_t address, unsigned size)
{
    Py_ssize_t low = 0, high = core->count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (core->registers[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == core->count || address < core->registers[low].base || core->registers[low].end - address < size)
        return NULL;
    return &core->registers[low];
}

/* The failed call's exception is an access fault, or else a defect that is reported. */
static bool is_fault(Core *core)
{
    if (PyErr_ExceptionMatches(core->fault)) {
        PyErr_Clear();
        return true;
    }
    report_failure(core);
    return false;
}

static uint64_t load(Core *core, uint64_t address, unsigned size)
{
    uintptr_t host_pc = *core->mem_io_pc;
    *core->mem_io_pc = NO_ACCESS;
    if (host_pc == NO_ACCESS) {
        core->walk_fault = 1;
        return 0;
    }
    const Registers *r = host_pc ? find(core, address, size) : NULL; /* code is fetched from RAM only */
    if (!r)
        raise_fault(core, address, host_pc, false);
    PyGILState_STATE gil = PyGILState_Ensure();
    bool fault = false;
    uint64_t value = 0;
    enter_device(core, host_pc);
    PyObject *result = PyObject_CallFunction(r->read, "KI", (unsigned long long)(address - r->base), size);
    if (result) {
        value = PyLong_AsUnsignedLongLongMask(result);
        Py_DECREF(result);
        if (value == (uint64_t)-1 && PyErr_Occurred())
            report_failure(core);
    } else {
        fault = is_fault(core);
    }
    leave_device(core);
    PyGILState_Release(gil);
    if (fault)
        raise_fault(core, address, host_pc, false);
    return value;
}

static void store(Core *core, uint64_t address, unsigned size, uint64_t value)
{
    uintptr_t host_pc = *core->mem_io_pc;
    *core->mem_io_pc = NO_ACCESS;
    const Registers *r = find(core, address, size);
    if (!r)
        raise_fault(core, address, host_pc, true);
    PyGILState_STATE gil = PyGILState_Ensure();
    bool fault = false;
    enter_device(core, host_pc);
    PyObject *result =
        PyObject_CallFunction(r->write, "KKI", (unsigned long long)(address - r->base), (unsigned long long)value, size);
    if (result)
        Py_DECREF(result);
    else
        fault = is_fault(core);
    leave_device(core);
    PyGILState_Release(gil);
    if (fault)
        raise_fault(core, address, host_pc, true);
    if (core->leaving)
        leave_after_store(core, host_pc, size);
}

static uint64_t hook_load(void *uc, uint64_t offset, unsigned size, void *user)
{
    Gap *gap = user;
    return load(gap->core, gap->base + offset, size);
}

static void hook_store(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user)
{
    Gap *gap = user;
    store(gap->core, gap->base + offset, size, value);
}

/* UC_HOOK_MEM_WRITE_PROT over ROM: true means go on, and the engine then drops the write. */
static bool hook_rom(void *uc, int type, uint64_t address, int size, int64_t value, void *user)
{
    return true;
}

/* The Python type ---------------------------------------------------------------------------------------------------- */

#define ADDRESS(name) {#name, offsetof(Core, name)}
static const struct {
    const char *name;
    size_t offset;
} addresses[] = {
    ADDRESS(uc), ADDRESS(cs), ADDRESS(env), ADDRESS(interrupt_request), ADDRESS(next_block), ADDRESS(icount_high), ADDRESS(exception_index),
    ADDRESS(mem_io_pc), ADDRESS(pc), ADDRESS(badaddr), ADDRESS(priv), ADDRESS(mip), ADDRESS(mstatus), ADDRESS(gpr), ADDRESS(emu_start),
    ADDRESS(emu_stop), ADDRESS(do_interrupt), ADDRESS(exec_interrupt), ADDRESS(raise_exception), ADDRESS(restore_state),
    ADDRESS(loop_exit), ADDRESS(update_mip), ADDRESS(code_at),
    ADDRESS(physical), ADDRESS(tlb_fill), ADDRESS(flush_page), ADDRESS(flush_modes), ADDRESS(get_csr_ops),
    ADDRESS(set_csr_ops), ADDRESS(invalidate), ADDRESS(reset_dirty_host),
    ADDRESS(protect_code), ADDRESS(written_code), ADDRESS(set_dirty), ADDRESS(reset_dirty), ADDRESS(find_block), ADDRESS(new_block),
};

static int core_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Core *core = (Core *)self;
    PyObject *where, *handler, *fault;
    static char *names[] = {"addresses", "handler", "fault", "ns_per_tick", NULL};
    if (core->started) {
        PyErr_SetString(PyExc_RuntimeError, "a Core is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOL", names, &where, &handler, &fault, &core->ns_per_tick))
        return -1;
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        PyObject *number = PyMapping_GetItemString(where, addresses[i].name);
        if (!number)
            return -1;
        void *value = PyLong_AsVoidPtr(number);
        Py_DECREF(number);
        if (!value) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "address of %s is null", addresses[i].name);
            return -1;
        }
        *(void **)((char *)core + addresses[i].offset) = value;
    }
    if (core->ns_per_tick <= 0) {
        PyErr_SetString(PyExc_ValueError, "ns_per_tick must be positive");
        return -1;
    }
    core->known = PyMem_Calloc(1 << KNOWN_BITS, sizeof *core->known);
    if (!core->known) {
        PyErr_NoMemory();
        return -1;
    }
    core->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    if (core->timer < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    pthread_mutex_init(&core->lock, NULL);
    core->deadline = -1;
    core->frozen = 0;
    *core->mem_io_pc = NO_ACCESS;
    int failed = pthread_create(&core->watchdog, NULL, watch, core);
    if (failed) {
        close(core->timer);
        errno = failed;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    tlb_fill = core->tlb_fill;
    protect_code = core->protect_code;
    written_code = core->written_code;
    set_dirty = core->set_dirty;
    reset_dirty = core->reset_dirty;
    find_block = core->find_block;
    restore_state = core->restore_state;
    new_block = core->new_block;
    CsrOps ops;
    core->get_csr_ops(SSTATUS, &ops);
    if (ops.write != hook_sstatus) {
        write_sstatus = ops.write;
        ops.write = hook_sstatus;
        core->set_csr_ops(SSTATUS, &ops);
    }
    for (int i = 0; i < 2; i++) {
        core->get_csr_ops(cycles[i], &ops);
        ops.read = read_cycle;
        core->set_csr_ops(cycles[i], &ops);
        core->get_csr_ops(instructions[i], &ops);
        ops.read = read_instret;
        core->set_csr_ops(instructions[i], &ops);
    }
    core->handler = Py_NewRef(handler);
    core->fault = Py_NewRef(fault);
    core->started = 1;
    return 0;
}

static void drop_memory(Core *core)
{
    for (Py_ssize_t i = 0; i < core->span_count; i++)
        free(core->spans[i].code);
    PyMem_Free(core->spans);
    core->spans = NULL;
    core->span_count = 0;
}

static void drop_registers(Core *core)
{
    Registers *old = core->registers;
    Py_ssize_t count = core->count;
    core->registers = NULL;
    core->count = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_DECREF(old[i].read);
        Py_DECREF(old[i].write);
    }
    PyMem_Free(old);
}

static PyObject *core_close(PyObject *self, PyObject *unused)
{
    Core *core = (Core *)self;
    if (core->started == 1) {
        core->started = 2;
        pthread_mutex_lock(&core->lock);
        core->closing = 1;
        set_timer(core, 0); /* long past: wakes the watchdog */
        pthread_mutex_unlock(&core->lock);
        Py_BEGIN_ALLOW_THREADS
        pthread_join(core->watchdog, NULL);
        Py_END_ALLOW_THREADS
        close(core->timer);
        pthread_mutex_destroy(&core->lock);
        drop_registers(core);
        drop_memory(core);
        PyMem_Free(core->known);
        core->known = NULL;
        Py_CLEAR(core->handler);
        Py_CLEAR(core->fault);
    }
    Py_RETURN_NONE;
}

static void core_dealloc(PyObject *self)
{
    PyObject *type = (PyObject *)Py_TYPE(self);
    freefunc release = PyType_GetSlot((PyTypeObject *)type, Py_tp_free);
    Py_XDECREF(core_close(self, NULL));
    while (((Core *)self)->gaps) {
        Gap *gap = ((Core *)self)->gaps;
        ((Core *)self)->gaps = gap->next;
        free(gap);
    }
    release(self);
    Py_DECREF(type);
}

static PyObject *core_run(PyObject *self, PyObject *unused)
{
    Core *core = (Core *)self;
    Core *before = current;
    int error;
    if (core->started != 1 || core->in_guest) {
        PyErr_SetString(PyExc_RuntimeError, core->in_guest ? "the vCPU runs already" : "the engine is closed");
        return NULL;
    }
    core->leaving = 0;
    if (__atomic_load_n(&core->attention, __ATOMIC_SEQ_CST))
        interrupt(core); /* a reset may have cleared the engine's part of it */
    current = core;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&core->lock);
    core->in_guest = 1;
    set_timer(core, next_look(core, host_now(), TICK));
    pthread_mutex_unlock(&core->lock);
    error = core->emu_start(core->uc, *core->pc, 0, 0, 0);
    leave_block(core, 0); /* WFI leaves its block with pc behind it */
    pthread_mutex_lock(&core->lock);
    core->in_guest = 0;
    pthread_mutex_unlock(&core->lock);
    Py_END_ALLOW_THREADS
    current = before;
    return PyLong_FromLong(error);
}

static PyObject *core_kick(PyObject *self, PyObject *unused)
{
    if (((Core *)self)->started == 1)
        kick((Core *)self);
    Py_RETURN_NONE;
}

static PyObject *core_leave(PyObject *self, PyObject *unused)
{
    if (((Core *)self)->started == 1) {
        __atomic_store_n(&((Core *)self)->leaving, 1, __ATOMIC_SEQ_CST);
        interrupt((Core *)self);
    }
    Py_RETURN_NONE;
}

static PyObject *core_set_interrupts(PyObject *self, PyObject *args)
{
    Core *core = (Core *)self;
    unsigned int mask, value;
    if (!PyArg_ParseTuple(args, "II", &mask, &value))
        return NULL;
    core->update_mip(core->cs, mask, value);
    /* The engine tells nobody when a bit comes, and forgets that we were kicked when the last one goes. */
    if (value || __atomic_load_n(&core->attention, __ATOMIC_SEQ_CST) || core->leaving)
        interrupt(core);
    Py_RETURN_NONE;
}

static PyObject *core_in_device(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Core *)self)->in_device);
}

static PyObject *core_translate(PyObject *self, PyObject *argument)
{
    Core *core = (Core *)self;
    uint64_t address = PyLong_AsUnsignedLongLong(argument);
    if (address == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    uint64_t page = core->physical(core->cs, address & ~(uint64_t)0xfff);
    core->walk_fault = 0; /* nobody has accessed anything */
    if (page == (uint64_t)-1)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(page | (address & 0xfff));
}

static PyObject *core_set_clock(PyObject *self, PyObject *args)
{
    Core *core = (Core *)self;
    long long offset, frozen;
    if (!PyArg_ParseTuple(args, "LL", &offset, &frozen))
        return NULL;
    core->offset = offset;
    core->frozen = frozen;
    Py_RETURN_NONE;
}

static PyObject *core_set_deadline(PyObject *self, PyObject *argument)
{
    Core *core = (Core *)self;
    long long deadline = PyLong_AsLongLong(argument);
    if (deadline == -1 && PyErr_Occurred())
        return NULL;
    if (core->started != 1)
        Py_RETURN_NONE;
    pthread_mutex_lock(&core->lock);
    core->deadline = deadline < 0 ? -1 : deadline;
    if (core->in_guest)
        set_timer(core, next_look(core, host_now(), TICK));
    pthread_mutex_unlock(&core->lock);
    Py_RETURN_NONE;
}

/* count(shift, user): count instructions from now on. */
static PyObject *core_count(PyObject *self, PyObject *args)
{
    Core *core = (Core *)self;
    int shift;
    unsigned long long user;
    if (!PyArg_ParseTuple(args, "iK", &shift, &user))
        return NULL;
    if (shift < 0 || shift > 32 || !user) {
        PyErr_SetString(PyExc_ValueError, "count: shift must be 0 to 32");
        return NULL;
    }
    core->block_user = (void **)(uintptr_t)user;
    core->counting = shift + 1;
    core->limit = INT64_MAX;
    core->called = -1;
    Py_RETURN_NONE;
}

static PyObject *core_counted(PyObject *self, PyObject *unused)
{
    return PyLong_FromLongLong(((Core *)self)->counted - ((Core *)self)->ahead);
}

static PyObject *core_set_counted(PyObject *self, PyObject *argument)
{
    long long count = PyLong_AsLongLong(argument);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    ((Core *)self)->counted = count;
    Py_RETURN_NONE;
}

static PyObject *core_set_limit(PyObject *self, PyObject *argument)
{
    long long limit = PyLong_AsLongLong(argument);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    ((Core *)self)->limit = limit < 0 ? INT64_MAX : limit;
    Py_RETURN_NONE;
}

static PyObject *core_set_ecalls(PyObject *self, PyObject *argument)
{
    int on = PyObject_IsTrue(argument);
    if (on < 0)
        return NULL;
    ((Core *)self)->ecalls = on;
    Py_RETURN_NONE;
}

/* set_registers([(base, end, read, write), ...]), sorted and without overlap. */
static PyObject *core_set_registers(PyObject *self, PyObject *list)
{
    Core *core = (Core *)self;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0)
        return NULL;
    Registers *fresh = PyMem_Calloc(count ? count : 1, sizeof *fresh);
    if (!fresh)
        return PyErr_NoMemory();
    Py_ssize_t i;
    for (i = 0; i < count; i++) {
        unsigned long long base, end;
        PyObject *read, *write;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "KKOO", &base, &end, &read, &write))
            break;
        fresh[i] = (Registers){base, end, Py_NewRef(read), Py_NewRef(write)};
    }
    drop_registers(core);
    core->registers = fresh;
    core->count = i;
    if (i < count) {
        drop_registers(core);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* set_memory([(base, end, ram_address, host), ...]) */
static PyObject *core_set_memory(PyObject *self, PyObject *list)
{
    Core *core = (Core *)self;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0)
        return NULL;
    Span *fresh = PyMem_Calloc(count ? count : 1, sizeof *fresh);
    if (!fresh)
        return PyErr_NoMemory();
    drop_memory(core);
    core->spans = fresh;
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long base, end, ram_address, host;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "KKKK", &base, &end, &ram_address, &host))
            return NULL;
        /* Zeroes that cost no memory until they are needed. */
        uint8_t *code = calloc((end - base + 0xfff) >> 12, 1);
        if (!code)
            return PyErr_NoMemory();
        fresh[core->span_count++] = (Span){base, end, ram_address, host, code};
    }
    Py_RETURN_NONE;
}

/* invalidate([(address, length), ...]): somebody has written there.  A disk writes into hundreds of pages at a time. */
static PyObject *core_invalidate(PyObject *self, PyObject *list)
{
    Core *core = (Core *)self;
    Py_ssize_t count = PyList_Size(list);
    if (count < 0)
        return NULL;
    if (core->started != 1) {
        PyErr_SetString(PyExc_RuntimeError, "the engine is closed");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *segment = PyList_GetItem(list, i);
        PyObject *first = segment ? PyTuple_GetItem(segment, 0) : NULL;
        PyObject *second = first ? PyTuple_GetItem(segment, 1) : NULL;
        if (!second)
            return NULL;
        uint64_t address = PyLong_AsUnsignedLongLong(first);
        uint64_t length = PyLong_AsUnsignedLongLong(second);
        if ((address == (uint64_t)-1 || length == (uint64_t)-1) && PyErr_Occurred())
            return NULL;
        if (length > UINT64_MAX - address)
            length = UINT64_MAX - address;
        for (Py_ssize_t k = 0; k < core->span_count; k++) {
            const Span *span = &core->spans[k];
            uint64_t begin = address > span->base ? address : span->base;
            uint64_t end = address + length < span->end ? address + length : span->end;
            if (begin < end)
                core->invalidate(core->uc, span->ram_address + (begin - span->base),
                                 span->ram_address + (end - span->base));
        }
    }
    Py_RETURN_NONE;
}

/* gap(base) -> (load, store, user): what to give to uc_mmio_map for the stretch that begins at `base`; lives as
 * long as the Core. */
static PyObject *core_gap(PyObject *self, PyObject *argument)
{
    uint64_t base = PyLong_AsUnsignedLongLong(argument);
    if (base == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    Core *core = (Core *)self;
    Gap *gap = malloc(sizeof *gap);
    if (!gap)
        return PyErr_NoMemory();
    *gap = (Gap){core, base, core->gaps};
    core->gaps = gap;
    return Py_BuildValue("NNN", PyLong_FromVoidPtr(hook_load), PyLong_FromVoidPtr(hook_store), PyLong_FromVoidPtr(gap));
}

/* hooks() -> {name: address} of the functions that the engine calls; their user datum is the Core's address, "user". */
static PyObject *core_hooks(PyObject *self, PyObject *unused)
{
    const struct {
        const char *name;
        void *address;
    } hooks[] = {
        {"fill", hook_fill},         {"interrupt", hook_interrupt}, {"exception", hook_exception}, {"breakpoint", hook_breakpoint},
        {"rom", hook_rom},           {"time", read_time},           {"protect", hook_protect},     {"written", hook_written},
        {"set dirty", hook_set_dirty}, {"reset dirty", hook_reset_dirty}, {"lookup", hook_lookup}, {"block", hook_block},
        {"new block", hook_new_block}, {"restore", hook_restore},   {"user", self},
    };
    PyObject *found = PyDict_New();
    for (size_t i = 0; found && i < sizeof hooks / sizeof *hooks; i++) {
        PyObject *address = PyLong_FromVoidPtr(hooks[i].address);
        if (!address || PyDict_SetItemString(found, hooks[i].name, address))
            Py_CLEAR(found);
        Py_XDECREF(address);
    }
    return found;
}

static PyMethodDef core_methods[] = {
    {"run", core_run, METH_NOARGS, "run() -> int: run guest code until a halt, `leave` or an error of the engine."},
    {"kick", core_kick, METH_NOARGS, "kick(): call handler.attention() at the next block boundary; any thread."},
    {"leave", core_leave, METH_NOARGS, "leave(): let run() return at the next block boundary."},
    {"set_interrupts", core_set_interrupts, METH_VARARGS, "set_interrupts(mask, value): change bits of mip."},
    {"in_device", core_in_device, METH_NOARGS, "in_device(): whether a device's callback is being called."},
    {"translate", core_translate, METH_O, "translate(address): the physical address, or None."},
    {"set_clock", core_set_clock, METH_VARARGS, "set_clock(offset, frozen): guest ns = host ns + offset, or frozen if >= 0."},
    {"set_deadline", core_set_deadline, METH_O, "set_deadline(ns): kick at that host time; negative for never."},
    {"count", core_count, METH_VARARGS, "count(shift, user): count instructions; `user` is where the hook \"block\" has its datum."},
    {"counted", core_counted, METH_NOARGS, "counted() -> int: how many instructions there were."},
    {"set_counted", core_set_counted, METH_O, "set_counted(count): as if there had been that many instructions."},
    {"set_limit", core_set_limit, METH_O, "set_limit(count): kick before that instruction; negative for none."},
    {"set_ecalls", core_set_ecalls, METH_O, "set_ecalls(on): whether S-mode ecalls go to handler.ecall()."},
    {"set_registers", core_set_registers, METH_O, "set_registers(list of (base, end, read, write))."},
    {"set_memory", core_set_memory, METH_O, "set_memory(list of (base, end, ram_address, host))."},
    {"invalidate", core_invalidate, METH_O, "invalidate(list of (address, length)): drop what was translated from there."},
    {"gap", core_gap, METH_O, "gap(base) -> (load, store, user) for uc_mmio_map."},
    {"hooks", core_hooks, METH_NOARGS, "hooks() -> addresses of the engine's hooks."},
    {"close", core_close, METH_NOARGS, "close(): end the watchdog; the engine may not run any more."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "The native glue of one engine."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, core_init},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_methods, core_methods},
    {0, NULL},
};

static PyType_Spec core_spec = {"qemud.accel.unicorn._fast.Core", sizeof(Core), 0, Py_TPFLAGS_DEFAULT, core_slots};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_fast", "The native part of the Unicorn accelerator.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    PyObject *m = PyModule_Create(&module);
    PyObject *type = m ? PyType_FromSpec(&core_spec) : NULL;
    if (!type || PyModule_AddObjectRef(m, "Core", type) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(m);
        return NULL;
    }
    Py_DECREF(type);
    return m;
}
