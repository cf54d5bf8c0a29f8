/* Entry, trap entry and the few things C cannot say.
 *
 * The firmware enters at the first byte in S-mode with the hart's number in a0 and the device tree's address in a1. */

    .section .head, "ax"
    .globl _start
_start:
    /* Header of a RISC-V Linux Image (Documentation/arch/riscv/boot-image-header.rst), so that loaders know it. */
    .option push
    .option norvc
    j       entry
    nop
    .option pop
    .balign 8
    .quad   0x200000            /* text_offset from the start of RAM */
    .quad   _end - _start       /* image_size, with .bss and stack */
    .quad   0                   /* flags: little endian */
    .word   2                   /* version 0.2 */
    .word   0
    .quad   0
    .ascii  "RISCV\0\0\0"
    .ascii  "RSC\x05"
    .word   0

entry:
    csrw    sie, zero
    csrw    sip, zero
    la      t0, _bss_start
    la      t1, _end
1:  sd      zero, 0(t0)
    addi    t0, t0, 8
    bltu    t0, t1, 1b
    la      sp, _stack_top
    la      t0, trap_entry
    csrw    stvec, t0
    tail    demo_main

/* All traps: save what a C function may clobber, and hand over. One stack serves both: there is no user mode. */
    .text
    .balign 4
trap_entry:
    addi    sp, sp, -144
    .irp    r, 1,5,6,7
    sd      x\r, 8*\r(sp)
    .endr
    sd      a0, 8*8(sp)
    sd      a1, 8*9(sp)
    sd      a2, 8*10(sp)
    sd      a3, 8*11(sp)
    sd      a4, 8*12(sp)
    sd      a5, 8*13(sp)
    sd      a6, 8*14(sp)
    sd      a7, 8*15(sp)
    sd      t3, 8*0(sp)
    sd      t4, 8*2(sp)
    sd      t5, 8*3(sp)
    sd      t6, 8*4(sp)
    csrr    a0, scause
    csrr    a1, sepc
    csrr    a2, stval
    call    trap
    csrw    sepc, a0            /* trap() returns where to go on */
    .irp    r, 1,5,6,7
    ld      x\r, 8*\r(sp)
    .endr
    ld      a0, 8*8(sp)
    ld      a1, 8*9(sp)
    ld      a2, 8*10(sp)
    ld      a3, 8*11(sp)
    ld      a4, 8*12(sp)
    ld      a5, 8*13(sp)
    ld      a6, 8*14(sp)
    ld      a7, 8*15(sp)
    ld      t3, 8*0(sp)
    ld      t4, 8*2(sp)
    ld      t5, 8*3(sp)
    ld      t6, 8*4(sp)
    addi    sp, sp, 144
    sret

/* void probe_load(address, &marker), probe_store(address, &marker), probe_jump(address, &marker):
 * an access that may fault. trap() sends the hart to probe_return; the marker tells whether the next
 * instruction took effect all the same, which a precise machine does not let happen. */
    .globl  probe_load, probe_store, probe_jump, probe_return
    .option push
    .option norvc
probe_load:
    li      t0, 1
    ld      zero, 0(a0)
    sd      t0, 0(a1)
    ret
probe_store:
    li      t0, 1
    sd      t0, 0(a0)
    sd      t0, 0(a1)
    ret
probe_jump:
    mv      t1, ra
    jalr    a0
    mv      ra, t1
    ret
probe_return:
    ret
    .option pop
