/*
 * What the hostile guests have in common, as macros of the assembler.
 */

    /* The next number in s0, which is never 0 (xorshift64); for a function of its own. Uses t6. */
    .macro next_random
    slli t6, s0, 13
    xor s0, s0, t6
    srli t6, s0, 7
    xor s0, s0, t6
    slli t6, s0, 17
    xor s0, s0, t6
    ret
    .endm

    /* 20 operations of two instructions each, on a1 and what a0 points at; the result is in t0. */
    .macro loads_and_stores
    lb t0, (a0)
    ret
    lbu t0, (a0)
    ret
    lh t0, (a0)
    ret
    lhu t0, (a0)
    ret
    lw t0, (a0)
    ret
    lwu t0, (a0)
    ret
    ld t0, (a0)
    ret
    ld t0, (a0)
    ret
    sb a1, (a0)
    ret
    sb a1, (a0)
    ret
    sh a1, (a0)
    ret
    sh a1, (a0)
    ret
    sw a1, (a0)
    ret
    sw a1, (a0)
    ret
    sd a1, (a0)
    ret
    sd a1, (a0)
    ret
    flw ft0, (a0)
    ret
    fld ft0, (a0)
    ret
    fsw ft0, (a0)
    ret
    fsd ft0, (a0)
    ret
    .endm

    /* Four more, which read and write. */
    .macro atomics
    amoswap.w t0, a1, (a0)
    ret
    amoadd.d t0, a1, (a0)
    ret
    amoor.d t0, a1, (a0)
    ret
    amomaxu.w t0, a1, (a0)
    ret
    .endm

    /* Print the text at a0 on the UART at t0, and halt. Uses a1 and t1. */
    .macro say
16: lbu a1, (a0)
    beqz a1, 18f
17: lbu t1, 5(t0)
    andi t1, t1, 0x20
    beqz t1, 17b
    sb a1, (t0)
    addi a0, a0, 1
    j 16b
18: wfi
    j 18b
    .endm
