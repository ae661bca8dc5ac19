"""Runs last: whether the others left out an rpc or a mechanism."""

import client
from suite import Suite, c


class Coverage(Suite):
    def test_every_rpc_was_called(self):
        self.assertEqual(set(client.rpcs_of_the_service()) - client.called, set())

    def test_every_mechanism_was_used(self):
        offered = set(c().call("GetMechanismList").Mechs)
        self.assertEqual({hex(mechanism) for mechanism in offered - client.mechanisms}, set())
