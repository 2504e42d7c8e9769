// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Attestations} from "./Attestations.sol";
import {Election} from "./Election.sol";
import {QualityGate, Verdict} from "./QualityGate.sol";
import {Quorum} from "./Quorum.sol";
import {RoundRegistry} from "./RoundRegistry.sol";
import {Signed} from "./Signed.sol";
import {WeightedMedian} from "./WeightedMedian.sol";

/// @title What the elected measured of a candidate: committed first, then revealed, weighed by stake.
/// @notice A vote is the ModelAttestation that a validator signs for the RoundRegistry, the same that agents check. Its
/// commitment is the keccak of that signature: nobody else can make the signature, so nothing leaks and no salt is
/// needed, and a signature fits one message, so there is one way to open it. Who copies a commitment cannot open it.
///
///     commit until all have or `commitUntil` → reveal until all committed have or `revealUntil` → closed
///
/// The RoundRegistry opens a ballot with each candidate; anybody hands in what validators signed, one or many at a time,
/// and closes it. Seats and weights are those of the round's epoch, less who was expelled or suspended before the ballot
/// is closed; who does not reveal counts as no.
contract QualityVotes is Signed {
    using Attestations for Attestations.ModelAttestation;

    struct Terms {
        uint32 tolerance; // ppm; at this distance from the median a vote earns no points
        uint64 commitSeconds;
        uint64 revealSeconds;
    }

    /// @dev One word of storage. 176 bits of the digest: to open a commitment in two ways takes a collision of them.
    struct Vote {
        bytes22 commitment; // 0 until there is one
        uint32 accuracy; // ppm
        uint32 baseline; // ppm; of the model in use
        bool approved;
        bool revealed;
    }

    struct Ballot {
        uint64 epoch; // of the election, as the round's; 0 if there is no such ballot
        uint64 commitUntil; // seconds
        uint64 revealUntil;
        uint16 seats; // elected for the epoch
        uint16 committed;
        uint16 revealed;
        bool closed;
        Verdict verdict; // this and all that follows: once closed
        uint32 accuracy; // weighted median, ppm
        uint32 baseline;
        uint96 approved; // weight
        uint96 total; // of all who were elected
    }

    /// @notice A commitment as a validator signed it: `VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)`.
    struct Commitment {
        address validator;
        bytes22 commitment;
        bytes signature;
    }

    /// @notice A vote as a validator signed it.
    struct Reveal {
        address validator;
        uint32 accuracy;
        uint32 baseline;
        bool approved;
        bytes signature; // of the ModelAttestation, for the RoundRegistry
    }

    bytes32 private constant COMMITMENT_TYPE =
        keccak256("VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)");
    uint32 private constant PPM = 1_000_000;

    RoundRegistry public immutable rounds;
    Election public immutable election;

    Terms private _terms;
    mapping(bytes32 task => mapping(uint64 round => Ballot)) private _ballots;
    mapping(bytes32 task => mapping(uint64 round => mapping(address validator => Vote))) private
        _votes;

    event BallotOpened(
        bytes32 indexed task, uint64 indexed round, bytes32 model, uint64 epoch, uint64 commitUntil, uint64 revealUntil
    );
    event VoteCommitted(bytes32 indexed task, uint64 indexed round, address indexed validator, bytes22 commitment);
    event VoteRevealed(
        bytes32 indexed task,
        uint64 indexed round,
        address indexed validator,
        uint32 accuracy,
        uint32 baseline,
        bool approved,
        bytes signature
    );
    event BallotClosed(
        bytes32 indexed task,
        uint64 indexed round,
        Verdict verdict,
        uint32 accuracy,
        uint32 baseline,
        uint96 approved,
        uint96 total
    );
    event PointsRefused(address indexed validator, bytes reason);

    error TermsOutOfRange();
    error NotRegistry(address caller);
    error NotCommitting(uint64 commitUntil);
    error NotRevealing(uint64 commitUntil, uint64 revealUntil);
    error NotOver(uint64 revealUntil);
    error AlreadyClosed(bytes32 task, uint64 round);
    error NotElected(address validator, uint64 epoch);
    error CommitmentDiffers(address validator, bytes22 commitment, bytes22 given);
    error AccuracyOutOfRange(uint32 accuracy);

    constructor(RoundRegistry rounds_, Election election_, Terms memory terms_) {
        if (terms_.tolerance == 0 || terms_.commitSeconds == 0 || terms_.revealSeconds == 0) revert TermsOutOfRange();
        (rounds, election, _terms) = (rounds_, election_, terms_);
    }

    /// @notice Begin the vote on a candidate; the RoundRegistry does, once for each.
    function open(bytes32 task, uint64 round, uint64 epoch, bytes32 model) external {
        if (msg.sender != address(rounds)) revert NotRegistry(msg.sender);
        uint64 commitUntil = uint64(block.timestamp) + _terms.commitSeconds;
        uint64 revealUntil = commitUntil + _terms.revealSeconds;
        Ballot storage ballot = _ballots[task][round];
        (ballot.epoch, ballot.commitUntil, ballot.revealUntil) = (epoch, commitUntil, revealUntil);
        ballot.seats = uint16(election.seatCountAt(epoch));
        emit BallotOpened(task, round, model, epoch, commitUntil, revealUntil);
    }

    /// @notice Enter commitments. One that stands already is passed over, so that nobody can spoil another's batch.
    function commit(bytes32 task, uint64 round, Commitment[] calldata commitments) external {
        Ballot storage ballot = _ballots[task][round];
        if (!_isCommitting(ballot)) revert NotCommitting(ballot.commitUntil);
        for (uint256 i; i < commitments.length; ++i) {
            Commitment calldata given = commitments[i];
            address validator = given.validator;
            Vote storage vote = _votes[task][round][validator];
            if (vote.commitment == given.commitment && given.commitment != 0) continue;
            if (vote.commitment != 0 || given.commitment == 0) {
                revert CommitmentDiffers(validator, vote.commitment, given.commitment);
            }
            // slither-disable-next-line calls-loop  our own contract, as often as there are seats
            if (election.seatAt(ballot.epoch, validator).weight == 0) revert NotElected(validator, ballot.epoch);
            bytes32 structHash = keccak256(abi.encode(COMMITMENT_TYPE, task, round, given.commitment));
            _requireSigned(validator, structHash, given.signature);
            vote.commitment = given.commitment;
            ++ballot.committed;
            emit VoteCommitted(task, round, validator, given.commitment);
        }
    }

    /// @notice Open commitments. One that is open already is passed over.
    function reveal(bytes32 task, uint64 round, Reveal[] calldata reveals) external {
        Ballot storage ballot = _ballots[task][round];
        // slither-disable-next-line timestamp  minutes; a block producer shifts seconds
        if (_isCommitting(ballot) || block.timestamp >= ballot.revealUntil || ballot.closed) {
            revert NotRevealing(ballot.commitUntil, ballot.revealUntil);
        }
        Attestations.ModelAttestation memory attestation = rounds.measured(task, round);
        bytes32 domain = rounds.domainSeparator();
        for (uint256 i; i < reveals.length; ++i) {
            Reveal calldata given = reveals[i];
            Vote storage vote = _votes[task][round][given.validator];
            if (vote.revealed) continue;
            (attestation.accuracy, attestation.baseline, attestation.approved) =
                (given.accuracy, given.baseline, given.approved);
            _check(attestation, domain, vote.commitment, given);
            (vote.accuracy, vote.baseline, vote.approved, vote.revealed) =
                (given.accuracy, given.baseline, given.approved, true);
            ++ballot.revealed;
            emit VoteRevealed(
                task, round, given.validator, given.accuracy, given.baseline, given.approved, given.signature
            );
        }
    }

    /// @notice Count, once all who committed have revealed or the time is over; and credit points for good votes.
    function close(bytes32 task, uint64 round) public returns (Verdict verdict) {
        Ballot storage ballot = _ballots[task][round];
        if (ballot.closed) revert AlreadyClosed(task, round);
        bool complete = !_isCommitting(ballot) && ballot.revealed == ballot.committed;
        // slither-disable-next-line timestamp  minutes; a block producer shifts seconds
        if (ballot.epoch == 0 || (block.timestamp < ballot.revealUntil && !complete)) {
            revert NotOver(ballot.revealUntil);
        }
        ballot.closed = true;
        (address[] memory voters, uint256 approved) = _count(task, round, ballot);
        uint256 total = election.totalWeightAt(ballot.epoch);
        RoundRegistry.Task memory gate = rounds.task(task);
        bool genesis = round == 0; // M0 is not trained yet, and nothing was before it
        verdict = QualityGate.judge(
            approved,
            Quorum.weightOf(total, gate.quorumPart),
            ballot.accuracy,
            ballot.baseline,
            genesis ? 0 : gate.threshold,
            genesis ? PPM : gate.maxRegression
        );
        ballot.verdict = verdict;
        (ballot.approved, ballot.total) = (SafeCast.toUint96(approved), SafeCast.toUint96(total));
        emit BallotClosed(
            task, round, verdict, ballot.accuracy, ballot.baseline, ballot.approved, ballot.total
        );
        _credit(task, round, voters, ballot.accuracy);
    }

    /// @notice What a ballot says, closing it first if nobody did.
    function settle(bytes32 task, uint64 round) external returns (Ballot memory) {
        if (!_ballots[task][round].closed) close(task, round);
        return _ballots[task][round];
    }

    // --- views ----------------------------------------------------------------------------------

    function ballotOf(bytes32 task, uint64 round) external view returns (Ballot memory) {
        return _ballots[task][round];
    }

    function voteOf(bytes32 task, uint64 round, address validator) external view returns (Vote memory) {
        return _votes[task][round][validator];
    }

    /// @notice Whether a ballot is closed, and the gate says yes to exactly this model.
    function isApproved(bytes32 task, uint64 round, bytes32 model) external view returns (bool) {
        Ballot storage ballot = _ballots[task][round];
        return ballot.closed && ballot.verdict == Verdict.Approved && rounds.round(task, round).model == model;
    }

    function terms() external view returns (Terms memory) {
        return _terms;
    }

    // --- inside ---------------------------------------------------------------------------------

    function _isCommitting(Ballot storage ballot) private view returns (bool) {
        // slither-disable-next-line timestamp  minutes; a block producer shifts seconds
        return block.timestamp < ballot.commitUntil && ballot.committed < ballot.seats;
    }

    function _check(
        Attestations.ModelAttestation memory attestation,
        bytes32 domain,
        bytes22 committed,
        Reveal calldata given
    ) private pure {
        if (given.accuracy > PPM) revert AccuracyOutOfRange(given.accuracy);
        if (given.baseline > PPM) revert AccuracyOutOfRange(given.baseline);
        bytes22 commitment = bytes22(keccak256(given.signature));
        if (commitment != committed) revert CommitmentDiffers(given.validator, committed, commitment);
        address signer =
            ECDSA.recoverCalldata(attestation.signedHash(domain), given.signature);
        if (signer != given.validator) revert BadSignature(given.validator, signer);
    }

    /// @dev Sets the medians, 0 and 0 where nobody has revealed.
    /// @return voters whose votes count: revealed, and weighing something now
    /// @return approved the weight of those who approve
    function _count(bytes32 task, uint64 round, Ballot storage ballot)
        private
        returns (address[] memory voters, uint256 approved)
    {
        address[] memory elected = election.electedAt(ballot.epoch);
        uint32[] memory accuracies = new uint32[](elected.length);
        uint32[] memory baselines = new uint32[](elected.length);
        uint256[] memory weights = new uint256[](elected.length);
        voters = new address[](elected.length);
        // slither-disable-next-line uninitialized-local  counts from 0
        uint256 count;
        for (uint256 i; i < elected.length; ++i) {
            Vote memory vote = _votes[task][round][elected[i]];
            // slither-disable-next-line calls-loop  our own contract, as often as there are seats
            uint256 weight = vote.revealed ? election.weightAt(ballot.epoch, elected[i]) : 0;
            if (weight == 0) continue;
            if (vote.approved) approved += weight;
            (accuracies[count], baselines[count]) = (vote.accuracy, vote.baseline);
            (voters[count], weights[count]) = (elected[i], weight);
            ++count;
        }
        if (count != 0) {
            ballot.accuracy = WeightedMedian.median(accuracies, weights, count);
            ballot.baseline = WeightedMedian.median(baselines, weights, count);
        }
    }

    /// @dev Whole points at the median, none at the tolerance, in a line between. An epoch that turned, or a role that
    /// is missing, costs points and not the verdict.
    function _credit(bytes32 task, uint64 round, address[] memory voters, uint32 median) private {
        uint32 tolerance = _terms.tolerance;
        for (uint256 i; i < voters.length && voters[i] != address(0); ++i) {
            uint32 accuracy = _votes[task][round][voters[i]].accuracy;
            uint32 distance = accuracy > median ? accuracy - median : median - accuracy;
            if (distance >= tolerance) continue;
            uint32 points = uint32(uint256(PPM) * (tolerance - distance) / tolerance);
            // slither-disable-next-line calls-loop,reentrancy-events  our own contract, which calls nobody
            try election.credit(voters[i], points) {}
            catch (bytes memory reason) {
                emit PointsRefused(voters[i], reason);
            }
        }
    }
}
