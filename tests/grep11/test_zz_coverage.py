"""Runs last: checks that the other tests used every rpc and mechanism, and that the documentation is right."""

import os
import re

import client
from client import number
from suite import Suite, c

PAGE = os.path.join(client.HERE, "../../docs/grep11.md")


class Coverage(Suite):
    def test_every_rpc_was_called(self):
        self.assertEqual(set(client.rpcs_of_the_service()) - client.called, set())

    def test_every_mechanism_was_used(self):
        offered = set(c().call("GetMechanismList").Mechs)
        self.assertEqual({hex(mechanism) for mechanism in offered - client.mechanisms}, set())

    def test_the_documentation_lists_what_is_there(self):
        rpcs, tested, not_offered = [], [], []
        with open(PAGE) as page:
            conformance = page.read().split("## Conformance")[1]
        for row in re.findall(r"^\|(.*)\|$", conformance, re.MULTILINE):
            names, state = row.split("|")[:2]
            for name in re.findall(r"`(\w+)`", names):
                if not name.startswith("CKM_"):
                    rpcs.append(name)
                elif "not offered" in state:
                    not_offered.append(number(name))
                else:
                    self.assertEqual(state.strip(), "tested")
                    tested.append(number(name))
        self.assertEqual(sorted(rpcs), sorted(client.rpcs_of_the_service()))
        offered = c().call("GetMechanismList").Mechs
        self.assertEqual(sorted(tested), sorted(offered))
        self.assertGreater(len(not_offered), 20)
        self.assertEqual(set(not_offered) & set(offered), set())
