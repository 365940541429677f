"""`python -m pulumi_embedded COMMAND` and the console script `pulumi-embedded`."""

import signal
import sys
from types import FrameType


def main() -> int:
    """Run the command line of this process."""
    interrupts = 0

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += 1
        signal.default_int_handler(number, frame)

    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, on_interrupt)
        # The process that started this one may have blocked SIGINT until it can be handled here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        from pulumi_embedded.cli.main import run_command

        return run_command(sys.argv[1:])
    # Compiled modules may replace KeyboardInterrupt with errors of their own.
    except (Exception, KeyboardInterrupt) as error:
        if not interrupts and not isinstance(error, KeyboardInterrupt):
            raise
        sys.stderr.write("error: canceled\n")
        return 1
    finally:
        # Python prints a traceback if it is interrupted while it ends.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
