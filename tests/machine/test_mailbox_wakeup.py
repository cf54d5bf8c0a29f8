"""A wake-up is never lost, not even for mail that comes in the middle of emptying the box."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from qemud.machine.mailbox import Mailboxes


def test_mail_while_the_box_is_counted_does_not_silence_the_next() -> None:
    mailboxes = Mailboxes(lambda: None)
    done: list[str] = []

    class Inbox(deque[Any]):
        """Another thread posts just before the mail is counted."""

        posted = False

        def __len__(self) -> int:
            if not self.posted:
                self.posted = True
                mailboxes.post(done.append, "in between")
            return super().__len__()

    mailboxes._inbox = Inbox()
    asleep = threading.Event()

    def machine() -> None:
        mailboxes.drain()
        asleep.set()
        mailboxes.wait()
        mailboxes.drain()

    thread = threading.Thread(target=machine, daemon=True)
    thread.start()
    asleep.wait()
    while not mailboxes._waiting:
        pass
    mailboxes.post(done.append, "next")
    thread.join(10)
    assert done == ["in between", "next"]
