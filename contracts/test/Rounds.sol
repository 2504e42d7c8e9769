// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Attestations} from "../src/Attestations.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {RoundRegistry} from "../src/RoundRegistry.sol";
import {Consortium} from "./Consortium.sol";

/// @notice Plays the parts of a round: each function is what one party sends.
abstract contract Rounds is Consortium {
    using Attestations for Attestations.ModelAttestation;
    using Attestations for Attestations.SumAttestation;

    bytes32 internal constant TASK = keccak256("hydraulic");
    bytes32 internal constant M0 = keccak256("M0");
    bytes32 internal constant POLICY = keccak256("policy");
    bytes32 internal constant ROOT = keccak256("root");
    bytes32 internal constant DIGEST = keccak256("digest");
    uint32 internal constant THRESHOLD = 600_000;
    uint32 internal constant MAX_REGRESSION = 20_000;
    uint32 internal constant OWNERS = 3;
    uint64 internal constant WEIGHT = 100;
    uint32 internal constant QUORUM_PART = 666_667;
    uint32 internal constant GOOD = 900_000;

    function _createTask(uint32 quorumPart) internal {
        rounds.createTask("hydraulic", THRESHOLD, MAX_REGRESSION, OWNERS, quorumPart, POLICY);
    }

    function _as(uint256 key) internal {
        vm.prank(vm.addr(key));
    }

    // --- one party's transaction each ---------------------------------------------------------------

    function _proposeGenesis() internal {
        _as(COORDINATOR);
        rounds.proposeGenesis(TASK, M0, POLICY);
    }

    function _openRound(uint64 round) internal {
        bytes32 base = rounds.task(TASK).model;
        _as(COORDINATOR);
        rounds.openRound(TASK, round, base, POLICY);
    }

    function _closeList(uint64 round) internal {
        _as(COORDINATOR);
        rounds.closeList(TASK, round, ROOT);
    }

    function _proposeSum(uint64 round) internal {
        _as(COORDINATOR);
        rounds.proposeSum(TASK, round, ROOT, DIGEST, OWNERS, WEIGHT);
    }

    function _recordOpening(uint64 round) internal {
        _as(CUSTODIAN);
        rounds.recordOpening(TASK, round, ROOT);
    }

    function _proposeCandidate(uint64 round, bytes32 model) internal {
        _as(COORDINATOR);
        rounds.proposeCandidate(TASK, round, model, ROOT, GOOD);
    }

    function _abort(uint64 round) internal {
        _as(COORDINATOR);
        rounds.abort(TASK, round, "test");
    }

    function _recordDeployed(uint64 round) internal {
        _as(LISTENER);
        rounds.recordDeployed(TASK, round, 1);
    }

    // --- many of them ---------------------------------------------------------------------------------

    function _toConfirmed(uint64 round) internal {
        _openRound(round);
        _closeList(round);
        _proposeSum(round);
        rounds.attestSums(TASK, round, _sumSignatures(round, _electorate(round).length));
    }

    function _toMeasured(uint64 round, bytes32 model) internal {
        _toConfirmed(round);
        _recordOpening(round);
        _proposeCandidate(round, model);
    }

    /// All who are elected measure the same.
    function _measure(uint64 round, uint32 accuracy, uint32 baseline, bool approved) internal {
        uint256[] memory voters = _electorate(round);
        QualityVotes.Commitment[] memory commitments = new QualityVotes.Commitment[](voters.length);
        QualityVotes.Reveal[] memory reveals = new QualityVotes.Reveal[](voters.length);
        for (uint256 i; i < voters.length; ++i) {
            (commitments[i], reveals[i]) = _vote(voters[i], round, accuracy, baseline, approved);
        }
        quality.commit(TASK, round, commitments);
        quality.reveal(TASK, round, reveals);
    }

    function _decide(uint64 round, uint32 accuracy, uint32 baseline, bool approved) internal {
        _measure(round, accuracy, baseline, approved);
        rounds.finalise(TASK, round);
    }

    /// M0 in use.
    function _founded() internal {
        _proposeGenesis();
        _decide(0, 0, 0, true);
        _recordDeployed(0);
    }

    function _toApproved(uint64 round, bytes32 model) internal {
        _toMeasured(round, model);
        _decide(round, GOOD, GOOD, true);
    }

    function _toDeployed(uint64 round, bytes32 model) internal {
        _toApproved(round, model);
        _recordDeployed(round);
    }

    // --- what validators sign -------------------------------------------------------------------------

    function _sum(uint64 round) internal pure returns (Attestations.SumAttestation memory) {
        return Attestations.SumAttestation(TASK, round, ROOT, DIGEST, OWNERS, WEIGHT);
    }

    function _signSum(uint256 key, Attestations.SumAttestation memory sum) internal view returns (bytes memory) {
        return _signRaw(key, sum.signedHash(_domainOf(rounds)));
    }

    /// The validators who vote in a round, heaviest first.
    function _electorate(uint64 round) internal view returns (uint256[] memory indexes) {
        address[] memory elected = election.electedAt(rounds.round(TASK, round).epoch);
        indexes = new uint256[](elected.length);
        for (uint256 i; i < elected.length; ++i) {
            while (_validator(indexes[i]) != elected[i]) ++indexes[i];
        }
    }

    /// The heaviest `count` confirm what was proposed.
    function _sumSignatures(uint64 round, uint256 count)
        internal
        view
        returns (RoundRegistry.SumSignature[] memory signatures)
    {
        uint256[] memory voters = _electorate(round);
        signatures = new RoundRegistry.SumSignature[](count);
        for (uint256 i; i < count; ++i) {
            signatures[i] = _sumSignature(voters[i], round);
        }
    }

    function _sumSignature(uint256 index, uint64 round) internal view returns (RoundRegistry.SumSignature memory) {
        return RoundRegistry.SumSignature(_validator(index), _signSum(_key(index), _sum(round)));
    }

    function _signModel(uint256 key, Attestations.ModelAttestation memory attestation)
        internal
        view
        returns (bytes memory)
    {
        return _signRaw(key, attestation.signedHash(_domainOf(rounds)));
    }

    /// One validator's vote, as it is committed and as it is revealed.
    function _vote(uint256 index, uint64 round, uint32 accuracy, uint32 baseline, bool approved)
        internal
        view
        returns (QualityVotes.Commitment memory, QualityVotes.Reveal memory)
    {
        return _voteBy(_key(index), round, accuracy, baseline, approved);
    }

    function _voteBy(uint256 key, uint64 round, uint32 accuracy, uint32 baseline, bool approved)
        internal
        view
        returns (QualityVotes.Commitment memory, QualityVotes.Reveal memory)
    {
        Attestations.ModelAttestation memory attestation = rounds.measured(TASK, round);
        (attestation.accuracy, attestation.baseline, attestation.approved) = (accuracy, baseline, approved);
        bytes memory signature = _signModel(key, attestation);
        bytes22 digest = bytes22(keccak256(signature));
        return (
            QualityVotes.Commitment(vm.addr(key), digest, _signCommitment(key, round, digest)),
            QualityVotes.Reveal(vm.addr(key), accuracy, baseline, approved, signature)
        );
    }

    function _signCommitment(uint256 key, uint64 round, bytes22 commitment) internal view returns (bytes memory) {
        bytes32 kind = keccak256("VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)");
        return _signFor(quality, key, keccak256(abi.encode(kind, TASK, round, commitment)));
    }
}
