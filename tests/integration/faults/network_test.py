#!/usr/bin/env python3
"""What happens to connections: cut, refused, half closed, stopped up, half open. Usage: see case.py."""
import sys

sys.dont_write_bytecode = True
import case  # noqa: E402
from proxy import Proxy  # noqa: E402

PEERS = ("env", "trainer", "inference")
DEADLINES = ("orchestrator.peers.generate_deadline=5s", "orchestrator.peers.train_deadline=5s")
STOPPED_UP = 8  # seconds: longer than these
# Calls that have longer deadlines (publishing and flipping weights) notice by their pings: 20 s of silence, 10 s of waiting.
NOTICED = 90


class Network(case.Case):
    def wired(self):
        """A crew whose orchestrator reaches its peers through proxies only."""
        crew = self.crew(*DEADLINES)
        crew.start(*PEERS)
        proxies = {}
        for role in PEERS:
            file = crew.run / "addresses" / f"{role}-0"
            crew.until(f"the address of {role}", file.exists)
            address, rest = file.read_text().split("\n", 1)
            proxies[role] = Proxy(address)
            self.addCleanup(proxies[role].close)
            other = file.with_name("." + file.name)
            other.write_text(f"{proxies[role].address}\n{rest}")
            other.rename(file)
        crew.start("orchestrator")
        crew.await_steps(2)
        return crew, proxies

    def inflict(self, fault, crew, proxy):
        if fault == "refuse":
            proxy.refuses = True
            proxy.each("cut")
            crew.pause(1 + self.random.random())
            proxy.refuses = False
        elif fault == "stop_up":
            proxy.flows.clear()
            crew.pause(STOPPED_UP)
            proxy.flows.set()
        else:
            self.assertGreater(proxy.each(fault), 0, "the control: there was a connection")

    def test_whatever_happens_to_connections_the_run_goes_on_and_is_sound(self):
        crew, proxies = self.wired()
        plan = [(fault, role) for fault in ("cut", "half_close") for role in PEERS]
        plan += [(fault, self.random.choice(PEERS)) for fault in ("refuse", "stop_up")]
        plan += [("vanish", self.random.choice(("trainer", "inference")))]
        if case.WORDS.long:
            plan = [(fault, role) for fault in ("cut", "half_close", "refuse", "stop_up", "vanish") for role in PEERS] * 4
        self.random.shuffle(plan)
        for fault, role in plan:
            with self.subTest(fault=fault, role=role):
                crew.pause(self.random.random())
                self.inflict(fault, crew, proxies[role])
                self.assert_sound(crew)
                crew.await_steps(2, NOTICED)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        print(f"long: {len(plan)} faults of connections, {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    case.main()
