#!/usr/bin/env python3
"""Weights and checkpoints that are damaged or deleted on the disk. Usage: see case.py."""
import fcntl
import os
import shutil
import signal
import sys
import time

sys.dont_write_bytecode = True
import case  # noqa: E402

OF_VERSIONS, OF_CHECKPOINTS = "versions_are_of_their_steps", "weights_contain_each_batch_once"


class Disk(case.Case):
    def flip_a_bit(self, path):
        data = bytearray(path.read_bytes())
        bit = self.random.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)

    def versions(self, crew):
        return sorted(folder for folder in (crew.run / "store").glob("v*") if (folder / "manifest.json").exists())

    def before_it_is_read(self, crew, spoil):
        """`spoil` gets the folder of the next version, which inference has not read: it stands still. The folder's name."""
        known = set(self.versions(crew))
        # Versions may go meanwhile, by the trainer's garbage collection: that is no new one.
        while not any((crew.run / "store").glob(".tmp-*")) and not set(self.versions(crew)) - known:
            crew.tend()
            time.sleep(0.0005)
        crew.signal("inference", signal.SIGSTOP)
        [fresh] = crew.until("the next version", lambda: set(self.versions(crew)) - known)
        spoil(fresh)
        return fresh.name

    def test_a_bit_that_flips_in_a_version_is_found_and_never_served(self):
        crew = self.started()
        refused = 0
        while refused < (10 if case.WORDS.long else 2):
            before = crew.log("inference").count("DATA_LOSS")
            name = self.before_it_is_read(crew, lambda folder: self.flip_a_bit(folder / "model.safetensors"))
            [[check, [finding]]] = crew.fsck().items()
            self.assertEqual(check, OF_VERSIONS)
            self.assertIn(f"version {name} is broken", finding)
            crew.signal("inference", signal.SIGCONT)
            crew.await_steps(2)
            refused += crew.log("inference").count("DATA_LOSS") > before  # else it had been read by then
            crew.until(f"the end of {name}", lambda: not (crew.run / "store" / name).exists())
        last = crew.finish(6)
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        self.assert_undisturbed(crew, last)

    def take_lease(self, file):
        try:
            return fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK) == 0
        except BlockingIOError:  # somebody has it open
            return False

    def while_it_is_read(self, crew, folder, spoil):
        """Inference, which stands still, goes on; `spoil` is called while it waits for a file of this folder to open."""
        file = os.open(self.random.choice(sorted(folder.glob("*.safetensors")) + [folder / "tokenizer.json"]), os.O_RDONLY)
        try:
            crew.until("a lease", lambda: self.take_lease(file), 10)  # who opens it waits for us, and we can tell
            crew.signal("inference", signal.SIGCONT)
            crew.until("inference reads the version", lambda: fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_WRLCK, 30)
            spoil(folder)
        finally:
            os.close(file)

    def deleted(self, in_between):
        """`in_between` deletes the version of which it gets the crew and the folder, and lets inference go on."""
        crew = self.started()
        refused = 0
        while refused < (10 if case.WORDS.long else 2):
            before = crew.log("inference").count("weights not taken over")
            self.before_it_is_read(crew, lambda folder: in_between(crew, folder))
            self.assert_sound(crew)
            crew.await_steps(2)
            refused += crew.log("inference").count("weights not taken over") > before
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        self.assert_undisturbed(crew, last)

    def test_a_version_that_is_deleted_before_it_is_loaded_is_written_anew(self):
        def in_between(crew, folder):
            shutil.rmtree(folder)
            crew.signal("inference", signal.SIGCONT)
        self.deleted(in_between)

    def test_a_version_that_is_deleted_while_it_is_loaded_is_written_anew(self):
        self.deleted(lambda crew, folder: self.while_it_is_read(crew, folder, shutil.rmtree))

    def test_a_bit_that_flips_in_a_checkpoint_costs_the_steps_since_the_one_before(self):
        crew = self.started()
        for _ in range(10 if case.WORDS.long else 2):
            crew.await_steps(4)  # with the one before there are two
            crew.until("two checkpoints", lambda: len(list((crew.run / "checkpoints").glob("step-*/state.json"))) >= 2)
            crew.kill("trainer", again=None)
            newest = max((crew.run / "checkpoints").glob("step-*"))
            self.flip_a_bit(self.random.choice([file for file in newest.iterdir() if file.stat().st_size]))
            [[check, [finding]]] = crew.fsck().items()
            self.assertEqual(check, OF_CHECKPOINTS)
            self.assertIn(f"checkpoint {newest.name} is broken", finding)
            told = crew.log("trainer").count("passed over")
            crew.start("trainer")
            crew.await_steps(4)
            self.assertGreater(crew.log("trainer").count("passed over"), told)
            crew.until(f"{newest.name} again, or newer ones", lambda: not crew.fsck())
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # which the kernel sends to the holder of a lease
    case.main()
