from __future__ import annotations

import subprocess
import sys

from fusion3d.io.lock import take_lock


def test_lock_is_held_until_its_file_is_closed(tmp_path):
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert take_lock(tmp_path / "lock") is None
    lock.close()
    again = take_lock(tmp_path / "lock")
    assert again is not None
    again.close()


def test_lock_of_a_process_that_died_is_free(tmp_path):
    code = "import fcntl, os, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "lock"], check=False).returncode == 9
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    lock.close()
