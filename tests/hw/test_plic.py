"""The PLIC against its specification, and against a naive model of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemud._generated.types.hw_riscv import SifivePlicOptions
from qemud.hw.intc.plic import Context, SifivePlic, parse_hart_config
from qemud.qapi.runtime.errors import GenericError
from tests.hw.support import bring_up

PENDING = 0x1000
ENABLE = 0x2000
CONTEXT = 0x200000

VIRT: dict[str, Any] = {
    "hart_config": "MS",
    "num_sources": 96,
    "num_priorities": 7,
    "pending_base": PENDING,
    "enable_base": ENABLE,
    "enable_stride": 0x80,
    "context_base": CONTEXT,
    "context_stride": 0x1000,
    "aperture_size": 0x600000,
}


class Driver:
    def __init__(self, **options: Any) -> None:
        self.plic = SifivePlic(SifivePlicOptions(**(VIRT | options)))
        _, self.lines = bring_up(self.plic)

    def read(self, offset: int) -> int:
        return self.plic.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.plic.write(offset, value, 4)

    def enable(self, source: int, priority: int = 1, context: int = 1) -> None:
        self.write(4 * source, priority)
        word = ENABLE + 0x80 * context + 4 * (source // 32)
        self.write(word, self.read(word) | 1 << source % 32)

    def claim(self, context: int = 1) -> int:
        return self.read(CONTEXT + 0x1000 * context + 4)

    def complete(self, source: int, context: int = 1) -> None:
        self.write(CONTEXT + 0x1000 * context + 4, source)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_an_interrupt_from_source_to_completion(driver: Driver):
    driver.enable(10)
    driver.plic.set_source(10, 1)
    assert driver.lines[1] == 1
    assert driver.lines[0] == 0
    assert driver.read(PENDING) == 1 << 10
    assert driver.claim() == 10
    assert driver.lines[1] == 0
    assert driver.read(PENDING) == 0
    assert driver.claim() == 0
    driver.plic.set_source(10, 0)
    driver.complete(10)
    assert driver.lines[1] == 0


def test_a_level_that_stays_high_interrupts_again_after_completion(driver: Driver):
    driver.enable(10)
    driver.plic.set_source(10, 1)
    driver.claim()
    driver.plic.set_source(10, 1)
    assert driver.lines[1] == 0
    driver.complete(10)
    assert driver.lines[1] == 1
    assert driver.claim() == 10


def test_a_request_once_made_stays_when_the_level_falls(driver: Driver):
    driver.enable(10)
    driver.plic.set_source(10, 1)
    driver.plic.set_source(10, 0)
    assert driver.claim() == 10


def test_highest_priority_first_then_lowest_number(driver: Driver):
    for source, priority in ((40, 3), (5, 2), (64, 3), (95, 7)):
        driver.enable(source, priority)
        driver.plic.set_source(source, 1)
    assert [driver.claim() for _ in range(5)] == [95, 40, 64, 5, 0]


def test_the_threshold_holds_the_interrupt_back_but_not_the_claim(driver: Driver):
    driver.enable(10, 3)
    driver.write(CONTEXT + 0x1000, 3)
    driver.plic.set_source(10, 1)
    assert driver.lines[1] == 0
    driver.write(CONTEXT + 0x1000, 2)
    assert driver.lines[1] == 1
    driver.write(CONTEXT + 0x1000, 7)
    assert driver.lines[1] == 0
    assert driver.claim() == 10


def test_priority_0_is_never(driver: Driver):
    driver.enable(10, 0)
    driver.plic.set_source(10, 1)
    assert driver.lines[1] == 0
    assert driver.claim() == 0
    driver.write(40, 1)
    assert driver.lines[1] == 1


def test_completions_of_others_sources_and_of_nonsense_are_ignored(driver: Driver):
    driver.enable(10)
    driver.plic.set_source(10, 1)
    driver.claim()
    driver.complete(10, context=0)
    assert driver.lines[1] == 0
    for nonsense in (0, 96, 0xFFFFFFFF):
        driver.complete(nonsense)
    driver.complete(10)
    assert driver.lines[1] == 1


def test_a_source_can_interrupt_both_contexts_but_is_claimed_once(driver: Driver):
    driver.enable(3)
    driver.enable(3, context=0)
    driver.plic.set_source(3, 1)
    assert (driver.lines[0], driver.lines[1]) == (1, 1)
    assert driver.claim(0) == 3
    assert (driver.lines[0], driver.lines[1]) == (0, 0)
    assert driver.claim(1) == 0


def test_registers_keep_the_bits_that_exist(driver: Driver):
    driver.write(0, 7)
    driver.write(4, 0xFF)
    driver.write(4 * 96, 7)
    driver.write(PENDING, 0xFFFFFFFF)
    driver.write(ENABLE, 0xFFFFFFFF)
    driver.write(CONTEXT, 0xFF)
    assert [driver.read(offset) for offset in (0, 4, 4 * 96, PENDING, ENABLE, CONTEXT)] == [
        0,
        7,
        0,
        0,
        0xFFFFFFFE,
        7,
    ]


@given(st.integers(0, 0x600000 // 4 - 1), st.integers(0, 0xFFFFFFFF))
@settings(max_examples=60)
def test_no_access_inside_the_aperture_fails(word: int, value: int):
    driver = Driver()
    driver.write(4 * word, value)
    assert 0 <= driver.read(4 * word) <= 0xFFFFFFFF


def test_priorities_that_are_no_power_of_two_ignore_what_is_too_high():
    driver = Driver(num_priorities=5)
    driver.write(4, 5)
    driver.write(4, 6)
    assert driver.read(4) == 5


def test_a_reset_forgets_all_but_the_inputs(driver: Driver):
    driver.enable(10)
    driver.plic.set_source(10, 1)
    driver.claim()
    plic = driver.plic
    plic.reset_enter()
    plic.reset_hold()
    plic.reset_exit()
    assert driver.lines[1] == 0
    assert driver.read(40) == 0
    driver.enable(10)
    assert driver.lines[1] == 1


def test_state_goes_into_another_one_with_the_interrupts_in_service(driver: Driver):
    driver.enable(10)
    driver.enable(11)
    driver.plic.set_source(10, 1)
    driver.claim()
    driver.plic.set_source(11, 1)
    other = Driver()
    other.plic.load(driver.plic.save())
    assert other.lines[1] == 1
    assert other.claim() == 11
    other.complete(10)
    assert other.claim() == 10


def test_states_of_another_shape_are_refused(driver: Driver):
    other = Driver(num_sources=32)
    with pytest.raises(GenericError, match="'level' has 1 elements, expected 3"):
        driver.plic.load(other.plic.save())


def test_hart_configs():
    assert parse_hart_config("M,MS") == [Context(0, "M"), Context(1, "M"), Context(1, "S")]
    with pytest.raises(GenericError, match="plic: invalid mode 'X'"):
        parse_hart_config("MX")
    with pytest.raises(GenericError, match="plic: duplicate mode 'M' in config: MSM"):
        parse_hart_config("MSM")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_sources": 0}, "invalid number of interrupt sources"),
        ({"num_sources": 5000}, "invalid number of interrupt sources"),
        ({"hart_config": ""}, "names no context"),
        ({"enable_stride": 4}, "strides are too small"),
        ({"pending_base": 0x40}, "registers overlap"),
        ({"aperture_size": 0x1000}, "too small for the registers"),
    ],
)
def test_layouts_that_make_no_sense_are_refused(options: dict[str, Any], text: str):
    with pytest.raises(GenericError, match=text):
        Driver(**options)


class Model:
    """One context, sets and dicts."""

    def __init__(self) -> None:
        self.level: set[int] = set()
        self.pending: set[int] = set()
        self.claimed: set[int] = set()
        self.enabled: set[int] = set()
        self.priority = dict.fromkeys(range(96), 0)
        self.threshold = 0

    def forward(self) -> None:
        self.pending |= self.level - self.pending - self.claimed

    def claim(self) -> int:
        candidates = [s for s in self.pending & self.enabled if self.priority[s]]
        if not candidates:
            return 0
        best = min(candidates, key=lambda s: (-self.priority[s], s))
        self.pending.discard(best)
        self.claimed.add(best)
        return best

    def interrupts(self) -> bool:
        return any(self.priority[s] > self.threshold for s in self.pending & self.enabled)


SOURCES = st.sampled_from([1, 2, 10, 31, 32, 33, 63, 64, 95])


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["high", "low", "enable", "disable", "complete"]), SOURCES, st.just(0)),
            st.tuples(st.just("priority"), SOURCES, st.integers(0, 7)),
            st.tuples(st.just("threshold"), st.just(0), st.integers(0, 7)),
            st.tuples(st.just("claim"), st.just(0), st.just(0)),
        ),
        max_size=50,
    )
)
def test_it_does_what_sets_and_dicts_do(steps: list[tuple[str, int, int]]):
    driver, model = Driver(), Model()
    for what, source, value in steps:
        word = ENABLE + 0x80 + 4 * (source // 32)
        bit = 1 << source % 32
        match what:
            case "high" | "low":
                driver.plic.set_source(source, int(what == "high"))
                (model.level.add if what == "high" else model.level.discard)(source)
                if what == "high" and source not in model.claimed:
                    model.pending.add(source)
            case "enable":
                driver.write(word, driver.read(word) | bit)
                model.enabled.add(source)
            case "disable":
                driver.write(word, driver.read(word) & ~bit)
                model.enabled.discard(source)
            case "priority":
                driver.write(4 * source, value)
                model.priority[source] = value
            case "threshold":
                driver.write(CONTEXT + 0x1000, value)
                model.threshold = value
            case "claim":
                assert driver.claim() == model.claim()
            case _:
                driver.complete(source)
                if source in model.enabled:
                    model.claimed.discard(source)
                    if source in model.level:
                        model.pending.add(source)
        assert driver.lines[1] == model.interrupts()
        assert driver.lines[0] == 0
