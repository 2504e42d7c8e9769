// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Administration} from "../src/Administration.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Rounds} from "./Rounds.sol";

/// @notice Whoever has no right over the registries calls every function of the DeviceRegistry, the RoundRegistry and the
/// Administration, with values that would do harm if they were taken. (A Python test holds the list of calls against the ABI.)
contract RightsHandler is Rounds {
    struct Attempt {
        uint8 who;
        address subject; // who shall profit
        Role role;
        bytes32 right;
        uint64 round;
        bytes32 value;
    }

    uint256 private constant CALLERS = 8;
    uint256 public constant CALLS = 32;
    uint256 private constant AGENT = 98; // keys
    uint256 private constant SUSPENDED = 99;
    uint256 private constant FORMER = 100; // its operator's right was taken back
    bytes32 private constant NOTHING = 0;

    Administration public administration;
    address public immutable member = address(0xa1);
    uint256 public refusals;

    constructor() {
        vm.warp(1_000_000);
        _found(5, 5);
        _seatAll();
        _createTask(QUORUM_PART);
        _founded();
        _register(AGENT, address(1), Role.Agent);
        _register(SUSPENDED, address(1), Role.Coordinator);
        devices.suspend(vm.addr(SUSPENDED));
        devices.grantRole(devices.OPERATOR_ROLE(), vm.addr(FORMER));
        devices.revokeRole(devices.OPERATOR_ROLE(), vm.addr(FORMER));
        address[] memory members = new address[](1);
        members[0] = member;
        administration = new Administration(2 days, members);
        devices.grantRole(0, address(administration));
        devices.renounceRole(0, address(this));
    }

    /// One attempt: `what` counts through all calls of the three.
    function attempt(uint8 who, uint8 what, uint8 whom, uint8 which, bytes32 value) external {
        Attempt memory harm =
            Attempt(who, caller(whom), Role(which % 6 + 1), _right(which, value), which % 3, value);
        what %= uint8(CALLS);
        if (what < 6) _send(who, address(devices), _ofDevices(what, harm), what == 5);
        else if (what < 20) _send(who, address(rounds), _ofRounds(what, harm), false);
        else _send(who, address(administration), _ofAdministration(what, harm), what >= 29);
    }

    function pass(uint32 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 10 days);
    }

    /// Strangers, an agent, a validator, a custodian, a party that is suspended, one who was operator once.
    function caller(uint256 which) public pure returns (address) {
        return vm.addr(_callerKey(which));
    }

    function callers() external pure returns (uint256) {
        return CALLERS;
    }

    /// As it was before anybody called.
    function check() external view {
        bytes32 operator = devices.OPERATOR_ROLE();
        for (uint256 i; i < CALLERS; ++i) {
            address account = caller(i);
            assert(!devices.hasRole(0, account) && !devices.hasRole(operator, account));
            for (uint8 role = uint8(Role.Agent); role <= uint8(Role.Auditor); ++role) {
                bool his = (i == 2 && role == uint8(Role.Agent)) || (i == 3 && role == uint8(Role.Validator))
                    || (i == 4 && role == uint8(Role.Custodian));
                assert(devices.isActive(account, Role(role)) == his);
            }
            assert(!administration.hasRole(0, account) && !administration.hasRole(administration.PROPOSER_ROLE(), account));
            assert(!administration.hasRole(administration.CANCELLER_ROLE(), account));
            assert(!election.hasRole(0, account) && !election.hasRole(election.SCORER_ROLE(), account));
        }
        assert(devices.hasRole(operator, address(this)) && !devices.hasRole(0, address(this)));
        assert(devices.hasRole(0, address(administration)) && devices.isActive(vm.addr(COORDINATOR), Role.Coordinator));
        assert(administration.hasRole(administration.PROPOSER_ROLE(), member));
        assert(administration.getMinDelay() == 2 days);
        assert(rounds.task(TASK).policy == POLICY && rounds.task(TASK).lastRound == 0);
        assert(rounds.task(TASK).model == M0 && rounds.task(TASK).deployment == 1);
        assertEq(devices.partyCount(), 3 + VALIDATORS + 2);
    }

    function _callerKey(uint256 which) private pure returns (uint256) {
        return [uint256(301), 302, AGENT, 11, CUSTODIAN, SUSPENDED, FORMER, 303][which % CALLERS];
    }

    function _ofDevices(uint8 what, Attempt memory harm) private view returns (bytes memory) {
        if (what == 0) return abi.encodeCall(devices.grantRole, (harm.right, harm.subject));
        if (what == 1) return abi.encodeCall(devices.revokeRole, (harm.right, address(this)));
        if (what == 2) return abi.encodeCall(devices.renounceRole, (harm.right, address(this)));
        if (what == 3) return abi.encodeCall(devices.suspend, (vm.addr(COORDINATOR)));
        if (what == 4) {
            bytes memory proof = _proof(_callerKey(harm.who), harm.subject, harm.role);
            return abi.encodeCall(devices.register, (caller(harm.who), harm.subject, harm.role, 0, proof));
        }
        return abi.encodeCall(devices.renounceRole, (harm.right, caller(harm.who))); // what he has not: nothing changes
    }

    function _ofRounds(uint8 what, Attempt memory harm) private view returns (bytes memory) {
        if (what == 6) return abi.encodeCall(rounds.bind, (election, quality));
        if (what == 7) return abi.encodeCall(rounds.createTask, ("another", 0, 0, 1, QUORUM_PART, harm.value));
        if (what == 8) return abi.encodeCall(rounds.setPolicy, (TASK, harm.value));
        if (what == 9) return abi.encodeCall(rounds.proposeGenesis, (harm.value, harm.value, POLICY));
        if (what == 10) return abi.encodeCall(rounds.openRound, (TASK, 1, M0, POLICY));
        if (what == 11) return abi.encodeCall(rounds.closeList, (TASK, harm.round, harm.value));
        if (what == 12) {
            return abi.encodeCall(rounds.proposeSum, (TASK, harm.round, harm.value, harm.value, OWNERS, WEIGHT));
        }
        if (what == 13) return abi.encodeCall(rounds.attestSums, (TASK, harm.round, _sumSignatures(0, VALIDATORS)));
        if (what == 14) return abi.encodeCall(rounds.recordOpening, (TASK, harm.round, harm.value));
        if (what == 15) {
            return abi.encodeCall(rounds.proposeCandidate, (TASK, harm.round, harm.value, harm.value, GOOD));
        }
        if (what == 16) return abi.encodeCall(rounds.finalise, (TASK, harm.round));
        if (what == 17) return abi.encodeCall(rounds.recordDeployed, (TASK, harm.round, 1));
        if (what == 18) return abi.encodeCall(rounds.rollBack, (TASK, harm.round, 1, harm.value));
        return abi.encodeCall(rounds.abort, (TASK, harm.round, "harm"));
    }

    function _ofAdministration(uint8 what, Attempt memory harm) private view returns (bytes memory) {
        address[] memory targets = new address[](1);
        uint256[] memory none = new uint256[](1);
        bytes[] memory calls = new bytes[](1);
        (targets[0], calls[0]) =
            (address(devices), abi.encodeCall(devices.grantRole, (devices.OPERATOR_ROLE(), harm.subject)));
        Administration it = administration;
        if (what == 20) return abi.encodeCall(it.schedule, (targets[0], 0, calls[0], 0, harm.value, 2 days));
        if (what == 21) return abi.encodeCall(it.scheduleBatch, (targets, none, calls, 0, harm.value, 2 days));
        if (what == 22) return abi.encodeCall(it.execute, (targets[0], 0, calls[0], 0, harm.value));
        if (what == 23) return abi.encodeCall(it.executeBatch, (targets, none, calls, 0, harm.value));
        if (what == 24) return abi.encodeCall(it.cancel, (harm.value));
        if (what == 25) return abi.encodeCall(it.updateDelay, (0));
        if (what == 26) return abi.encodeCall(it.grantRole, (_timelocksRight(harm.round), harm.subject));
        if (what == 27) return abi.encodeCall(it.revokeRole, (_timelocksRight(harm.round), member));
        if (what == 28) return abi.encodeCall(it.renounceRole, (_timelocksRight(harm.round), member));
        // it takes gifts from anybody
        if (what == 29) return abi.encodeCall(it.onERC721Received, (harm.subject, harm.subject, 0, calls[0]));
        if (what == 30) return abi.encodeCall(it.onERC1155Received, (harm.subject, harm.subject, 0, 0, calls[0]));
        return abi.encodeCall(it.onERC1155BatchReceived, (harm.subject, harm.subject, none, none, calls[0]));
    }

    function _timelocksRight(uint64 which) private view returns (bytes32) {
        return which == 0
            ? NOTHING
            : which == 1 ? administration.PROPOSER_ROLE() : administration.CANCELLER_ROLE();
    }

    function _right(uint8 which, bytes32 value) private view returns (bytes32) {
        return which % 3 == 0 ? NOTHING : which % 3 == 1 ? devices.OPERATOR_ROLE() : value;
    }

    function _send(uint8 who, address target, bytes memory data, bool harmless) private {
        vm.prank(caller(who));
        (bool done,) = target.call(data);
        assert(!done || harmless);
        if (!done) ++refusals;
    }
}

/// forge-config: default.invariant.runs = 8
/// forge-config: default.invariant.depth = 150
contract RightsInvariants {
    RightsHandler private handler;

    function setUp() public {
        handler = new RightsHandler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// No role escalation: nobody has more, nobody has less, and nothing was moved.
    function invariant_nobodyGainsARight() external view {
        handler.check();
    }

    /// Every call of the list, by each caller, once.
    function test_everyCallIsRefusedToEverybodyWithoutTheRight() external {
        for (uint8 who; who < handler.callers(); ++who) {
            for (uint8 what; what < handler.CALLS(); ++what) {
                for (uint8 which; which < 3; ++which) {
                    handler.attempt(who, what, who, which, keccak256("value"));
                }
            }
            handler.check();
        }
        assert(handler.refusals() > 500);
    }
}
