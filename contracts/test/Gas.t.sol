// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AssetRegistry} from "../src/AssetRegistry.sol";
import {Attestations} from "../src/Attestations.sol";
import {AuditAnchors} from "../src/AuditAnchors.sol";
import {DataSharing} from "../src/DataSharing.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Maintenance, OrderState} from "../src/Maintenance.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {Trust} from "../src/Trust.sol";
import {Rounds} from "./Rounds.sol";

/// @notice What each call costs with five validators, each call as a transaction of its own; snapshots/*.json is under
/// test: `FORGE_SNAPSHOT_CHECK=false npx forge test --match-contract GasTest` writes it anew.
/// forge-config: default.isolate = true
contract GasTest is Rounds {
    uint256 private constant WHOLE_ROUND = 1_500_000; // gas
    uint256 private constant OWNER = 101; // keys
    uint256 private constant CONSUMER = 102;
    uint256 private constant AGENT = 103;

    function setUp() public {
        vm.warp(1_000_000);
        _found(5, 16);
    }

    function test_election() public {
        vm.prank(_validator(0));
        election.stake(100 ether, address(0));
        vm.snapshotGasLastCall("Election", "stake, first");
        for (uint256 i = 1; i < VALIDATORS; ++i) {
            vm.prank(_validator(i));
            election.stake(100 ether - i * 10 ether, _validator(i - 1));
        }
        vm.snapshotGasLastCall("Election", "stake, fifth, with its hint");
        election.closeEpoch();
        vm.snapshotGasLastCall("Election", "closeEpoch, first, five seats");
        election.delegate(_validator(4), 45 ether, address(0));
        vm.snapshotGasLastCall("Election", "delegate, last to first, no hint");
        uint256 id = election.undelegate(_validator(4), 1000 ether, address(0));
        vm.snapshotGasLastCall("Election", "undelegate");
        election.fund(20 ether);
        vm.snapshotGasLastCall("Election", "fund");
        for (uint256 i; i < VALIDATORS; ++i) {
            election.credit(_validator(i), 1_000_000);
        }
        vm.snapshotGasLastCall("Election", "credit");
        vm.warp(election.epochEnds());
        election.closeEpoch();
        vm.snapshotGasLastCall("Election", "closeEpoch, five seats paid");
        vm.warp(block.timestamp + UNBONDING_S);
        election.withdraw(id);
        vm.snapshotGasLastCall("Election", "withdraw");
        Attestations.SumAttestation memory a = Attestations.SumAttestation(TASK, 1, M0, M0, 3, 9);
        Attestations.SumAttestation memory b = Attestations.SumAttestation(TASK, 1, M0, TASK, 3, 9);
        (bytes memory first, bytes memory second) = (_signSum(_key(0), a), _signSum(_key(0), b));
        election.slashContradictingSums(a, first, b, second);
        vm.snapshotGasLastCall("Election", "slashContradictingSums");
    }

    /// A whole round with five validators, every transaction of it: what validators sign goes in as one batch each.
    function test_round() public {
        _seatAll();
        _createTask(QUORUM_PART);
        _founded();
        uint256 sum;
        _openRound(1);
        sum += vm.snapshotGasLastCall("Round", "01 openRound");
        _closeList(1);
        sum += vm.snapshotGasLastCall("Round", "02 closeList");
        _proposeSum(1);
        sum += vm.snapshotGasLastCall("Round", "03 proposeSum");
        rounds.attestSums(TASK, 1, _sumSignatures(1, VALIDATORS));
        sum += vm.snapshotGasLastCall("Round", "04 attestSums, five in a batch");
        _recordOpening(1);
        sum += vm.snapshotGasLastCall("Round", "05 recordOpening");
        _proposeCandidate(1, keccak256("M1"));
        sum += vm.snapshotGasLastCall("Round", "06 proposeCandidate");
        QualityVotes.Commitment[] memory commitments = new QualityVotes.Commitment[](VALIDATORS);
        QualityVotes.Reveal[] memory reveals = new QualityVotes.Reveal[](VALIDATORS);
        for (uint256 i; i < VALIDATORS; ++i) {
            (commitments[i], reveals[i]) = _vote(i, 1, uint32(GOOD - i), uint32(GOOD - 2 * i), true);
        }
        quality.commit(TASK, 1, commitments);
        sum += vm.snapshotGasLastCall("Round", "07 commit, five in a batch");
        quality.reveal(TASK, 1, reveals);
        sum += vm.snapshotGasLastCall("Round", "08 reveal, five in a batch");
        rounds.finalise(TASK, 1);
        sum += vm.snapshotGasLastCall("Round", "09 finalise, five credited");
        _recordDeployed(1);
        sum += vm.snapshotGasLastCall("Round", "10 recordDeployed");
        vm.snapshotValue("Round", "whole round", sum);
        assert(sum <= WHOLE_ROUND);
    }

    function test_roundRegistry() public {
        _seatAll();
        _createTask(QUORUM_PART);
        vm.snapshotGasLastCall("RoundRegistry", "createTask");
        _proposeGenesis();
        vm.snapshotGasLastCall("RoundRegistry", "proposeGenesis");
        _decide(0, 0, 0, true);
        _recordDeployed(0);
        _openRound(1);
        _abort(1);
        vm.snapshotGasLastCall("RoundRegistry", "abort");
        rounds.setPolicy(TASK, M0);
        vm.snapshotGasLastCall("RoundRegistry", "setPolicy");
        rounds.setPolicy(TASK, POLICY);
        _toDeployed(2, keccak256("M1"));
        rounds.rollBack(TASK, 2, 1, ROOT);
        vm.snapshotGasLastCall("RoundRegistry", "rollBack");
        _register(AGENT, vm.addr(OWNER), Role.Agent);
        vm.snapshotGasLastCall("RoundRegistry", "DeviceRegistry.register");
    }

    function test_trust() public {
        _seatAll();
        Trust trust = new Trust(devices, election, token, 666_667, Trust.Terms(600_000, 300_000, 200_000, 30 days, REWARD));
        token.approve(address(trust), 100 ether);
        trust.fund(100 ether);
        Trust.Result[] memory results = new Trust.Result[](10);
        for (uint256 i; i < results.length; ++i) {
            _register(0xd000 + i, address(0xaa), Role.Agent);
            results[i] = Trust.Result(vm.addr(0xd000 + i), 900_000, 100_000);
        }
        bytes32 kind = keccak256("TrustReport(bytes32 task,uint64 round,bytes32 results)");
        bytes32 structHash = keccak256(abi.encode(kind, TASK, uint64(1), keccak256(abi.encode(results))));
        trust.report(TASK, 1, results, _signatures(trust, structHash, 4));
        vm.snapshotGasLastCall("Trust", "report, ten devices, four signatures");
        trust.claim(address(0xaa));
        vm.snapshotGasLastCall("Trust", "claim");
    }

    function test_dataSharing() public {
        AssetRegistry assets = new AssetRegistry(devices);
        DataSharing sharing = new DataSharing(assets);
        assets.assign("plant", "press", vm.addr(OWNER));
        vm.snapshotGasLastCall("DataSharing", "AssetRegistry.assign");
        DataSharing.Grant memory terms =
            DataSharing.Grant(vm.addr(OWNER), vm.addr(CONSUMER), "gemel/v1/plant/twin/press/+", 0, 2_000_000, 0);
        bytes32 id = sharing.idOf(terms);
        sharing.grant(terms, _signFor(sharing, OWNER, id), _signFor(sharing, CONSUMER, id));
        vm.snapshotGasLastCall("DataSharing", "grant");
        bytes32 revocation = keccak256(abi.encode(keccak256("Revocation(bytes32 grant)"), id));
        sharing.revoke(id, _signFor(sharing, OWNER, revocation));
        vm.snapshotGasLastCall("DataSharing", "revoke");
    }

    function test_maintenance() public {
        AssetRegistry assets = new AssetRegistry(devices);
        Maintenance maintenance = new Maintenance(devices, assets, address(this));
        bytes32 asset = assets.assign("plant", "press", vm.addr(OWNER));
        _register(AGENT, vm.addr(OWNER), Role.Agent);
        maintenance.grantRole(maintenance.TECHNICIAN_ROLE(), vm.addr(AGENT));
        bytes32 kind = keccak256("HealthAlert(bytes32 asset,bytes32 alert,uint64 time,bytes32 report)");
        bytes memory signature =
            _signFor(maintenance, AGENT, keccak256(abi.encode(kind, asset, M0, uint64(1), TASK)));
        bytes32 order = maintenance.open(asset, M0, 1, TASK, vm.addr(AGENT), signature);
        vm.snapshotGasLastCall("Maintenance", "open");
        kind = keccak256("MaintenanceStep(bytes32 order,uint8 state,uint64 time,bytes32 report)");
        signature =
            _signFor(maintenance, AGENT, keccak256(abi.encode(kind, order, OrderState.Acknowledged, uint64(2), TASK)));
        maintenance.acknowledge(order, Maintenance.Step(vm.addr(AGENT), 2, TASK), signature);
        vm.snapshotGasLastCall("Maintenance", "acknowledge");
    }

    function test_auditAnchors() public {
        AuditAnchors anchors = new AuditAnchors(address(this));
        anchors.grantRole(anchors.writerRole(TASK), address(this));
        anchors.anchor(TASK, 1, 10, M0);
        anchors.anchor(TASK, 11, 20, M0);
        vm.snapshotGasLastCall("AuditAnchors", "anchor");
    }
}
