// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {DeviceRegistry, Role} from "../src/DeviceRegistry.sol";
import {RoundRegistry, RoundState} from "../src/RoundRegistry.sol";
import {Attestations} from "../src/Attestations.sol";
import {Cheats} from "./Cheats.sol";

contract RoundRegistryTest is Cheats {
    bytes32 private constant TASK = keccak256("hydraulic");
    bytes32 private constant M0 = keccak256("M0");
    bytes32 private constant POLICY = keccak256("policy");
    uint256 private constant VALIDATOR = 11; // its key

    DeviceRegistry private devices;
    RoundRegistry private rounds;

    function setUp() public {
        devices = new DeviceRegistry(address(this));
        rounds = new RoundRegistry(devices);
        // this contract plays every part that sends
        devices.register(address(this), address(this), Role.Coordinator, 0);
        devices.register(vm.addr(VALIDATOR), address(1), Role.Validator, 0);
        rounds.createTask("hydraulic", 600_000, 20_000, 3, 1);
    }

    /// Whatever is called in whatever order, a state is only ever left along an arrow of the picture.
    function testFuzz_statesFollowThePicture(uint8[32] memory calls) public {
        _genesis();
        rounds.openRound(TASK, 1, M0, POLICY);
        for (uint256 i; i < calls.length; ++i) {
            RoundState before = rounds.round(TASK, 1).state;
            _call(calls[i] % 6);
            RoundState later = rounds.round(TASK, 1).state;
            assert(
                later == before || later == RoundState.Aborted
                    || (before == RoundState.Open && later == RoundState.Listed)
                    || (before == RoundState.Listed && later == RoundState.Aggregated)
                    || (before == RoundState.Aggregated && later == RoundState.Confirmed)
            );
            assert(before != RoundState.Aborted || later == RoundState.Aborted);
            assert(later < RoundState.Aggregated || later == RoundState.Aborted || rounds.round(TASK, 1).owners >= 3);
        }
    }

    /// A signature over any other number, model or verdict is no vote.
    function testFuzz_onlyTheStoredCandidateCanBeVotedFor(uint64 round, uint64 deployment, bytes32 model) public {
        vm.assume(round != 0 || deployment != 1 || model != M0);
        rounds.proposeGenesis(TASK, M0, POLICY);
        (bool taken,) = address(rounds).call(
            abi.encodeCall(
                rounds.attestModel,
                (TASK, 0, vm.addr(VALIDATOR), 1, 2, true, _vote(round, deployment, model, true))
            )
        );
        assert(!taken);
    }

    function testFuzz_strangersMayDoNothing(address stranger, uint8 call) public {
        vm.assume(stranger != address(this) && stranger != address(vm));
        _genesis();
        rounds.openRound(TASK, 1, M0, POLICY);
        vm.prank(stranger);
        assert(!_call([0, 1, 3, 4, 5][call % 5]));
    }

    function test_suspensionActsAtOnce() public {
        rounds.proposeGenesis(TASK, M0, POLICY);
        devices.suspend(vm.addr(VALIDATOR));
        bytes memory signature = _vote(0, 1, M0, true);
        vm.expectRevert(
            abi.encodeWithSelector(RoundRegistry.NotInRole.selector, vm.addr(VALIDATOR), Role.Validator)
        );
        rounds.attestModel(TASK, 0, vm.addr(VALIDATOR), 1, 2, true, signature);
    }

    function test_lineageNamesParentRoundAndDeployment() public {
        _genesis();
        RoundRegistry.Lineage memory lineage = rounds.lineage(TASK, M0);
        assertEq(lineage.deployment, 1);
        assertEq(lineage.round, 0);
        assertEq(uint256(lineage.parent), 0);
        assertEq(rounds.lineage(TASK, POLICY).deployment, 0);
    }

    function _genesis() private {
        rounds.proposeGenesis(TASK, M0, POLICY);
        rounds.attestModel(TASK, 0, vm.addr(VALIDATOR), 1, 2, true, _vote(0, 1, M0, true));
        rounds.finalise(TASK, 0);
        devices.register(address(2), address(2), Role.Listener, 0);
        vm.prank(address(2));
        rounds.recordDeployed(TASK, 0, 1);
    }

    function _call(uint256 which) private returns (bool done) {
        bytes memory data;
        if (which == 0) data = abi.encodeCall(rounds.closeList, (TASK, 1, POLICY));
        else if (which == 1) data = abi.encodeCall(rounds.proposeSum, (TASK, 1, POLICY, M0, 3, 100));
        else if (which == 2) data = abi.encodeCall(rounds.attestSum, (TASK, 1, vm.addr(VALIDATOR), _sumVote()));
        else if (which == 3) data = abi.encodeCall(rounds.recordOpening, (TASK, 1, POLICY)); // not our role
        else if (which == 4) data = abi.encodeCall(rounds.finalise, (TASK, 1));
        else data = abi.encodeCall(rounds.abort, (TASK, 1, "fuzz"));
        (done,) = address(rounds).call(data);
    }

    function _sumVote() private view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "SumAttestation(bytes32 task,uint64 round,bytes32 updatesRoot,bytes32 sumDigest,uint32 owners,uint64 weight)"
                ),
                TASK,
                1,
                POLICY,
                M0,
                3,
                100
            )
        );
        return _sign(structHash);
    }

    function _vote(uint64 round, uint64 deployment, bytes32 model, bool approved)
        private
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "ModelAttestation(bytes32 task,uint64 round,uint64 deployment,bytes32 parent,bytes32 model,uint32 accuracy,uint32 baseline,bool approved)"
                ),
                Attestations.ModelAttestation(TASK, round, deployment, 0, model, 1, 2, approved)
            )
        );
        return _sign(structHash);
    }

    function _sign(bytes32 structHash) private view returns (bytes memory) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Gemel"),
                keccak256("1"),
                block.chainid,
                address(rounds)
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(VALIDATOR, keccak256(abi.encodePacked("\x19\x01", domain, structHash)));
        return abi.encodePacked(r, s, v);
    }
}
