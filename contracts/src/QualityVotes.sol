// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {AttestationHashes} from "./AttestationHashes.sol";
import {Attestations} from "./Attestations.sol";
import {Role} from "./DeviceRegistry.sol";
import {Election} from "./Election.sol";
import {Verdict} from "./QualityGate.sol";
import {RoundRegistry, RoundState} from "./RoundRegistry.sol";
import {Signed} from "./Signed.sol";
import {WeightedMedian} from "./WeightedMedian.sol";

/// @title What the elected measured of a candidate: committed first, then revealed, weighed by stake.
/// @notice A vote is the ModelAttestation that a validator signs for the RoundRegistry, the same that agents check. Its
/// commitment is the keccak of that signature: nobody else can make the signature, so nothing leaks and no salt is
/// needed, and a signature fits one message, so there is one way to open it. Who copies a commitment cannot open it.
///
///     commit until all have or `commitUntil` → reveal until all committed have or `revealUntil` → closed
///
/// Anybody opens a ballot, hands in what validators signed, one or many at a time, and closes it. Seats and weights are
/// those of the moment when the ballot was opened; who does not reveal counts as no.
contract QualityVotes is Signed {
    struct Terms {
        uint32 quorumPart; // ppm of the elected stake that must approve; above a half
        uint32 tolerance; // ppm; at this distance from the median a vote earns no points
        uint64 commitSeconds;
        uint64 revealSeconds;
    }

    struct Vote {
        address validator;
        uint96 weight;
        bytes32 commitment;
        uint32 accuracy; // ppm
        uint32 baseline; // ppm; of the model in use
        bool approved;
        bool revealed;
    }

    struct Ballot {
        uint64 commitUntil; // seconds; 0 if there is no such ballot
        uint64 revealUntil;
        uint64 deployment; // the number that the model gets if it is approved
        bool closed;
        Verdict verdict; // once closed
        uint32 accuracy; // weighted median, ppm; once closed
        uint32 baseline;
        uint96 total; // elected weight
        uint96 committed;
        uint96 revealed;
        uint96 approved;
        bytes32 parent;
        bytes32 model;
    }

    /// @notice A commitment as a validator signed it: `VoteCommitment(bytes32 task,uint64 round,bytes32 commitment)`.
    struct Commitment {
        uint16 seat; // position in `votes`
        bytes32 commitment;
        bytes signature;
    }

    /// @notice A vote as a validator signed it.
    struct Reveal {
        uint16 seat;
        uint32 accuracy;
        uint32 baseline;
        bool approved;
        bytes signature; // of the ModelAttestation, for the RoundRegistry
    }

    bytes32 private constant COMMITMENT_TYPE =
        keccak256("VoteCommitment(bytes32 task,uint64 round,bytes32 commitment)");
    uint32 private constant PPM = 1_000_000;

    RoundRegistry public immutable rounds;
    Election public immutable election;

    Terms private _terms;
    mapping(bytes32 task => mapping(uint64 round => Ballot)) private _ballots;
    mapping(bytes32 task => mapping(uint64 round => Vote[])) private _votes;

    event BallotOpened(
        bytes32 indexed task, uint64 indexed round, bytes32 model, uint64 commitUntil, uint64 revealUntil, uint96 total
    );
    event VoteCommitted(bytes32 indexed task, uint64 indexed round, address indexed validator, bytes32 commitment);
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
    error NotMeasured(bytes32 task, uint64 round, RoundState state);
    error BallotExists(bytes32 task, uint64 round);
    error NobodyElected();
    error NotCommitting(uint64 commitUntil);
    error NotRevealing(uint64 commitUntil, uint64 revealUntil);
    error NotOver(uint64 revealUntil);
    error AlreadyClosed(bytes32 task, uint64 round);
    error UnknownSeat(uint16 seat);
    error NotValidator(address account);
    error CommitmentDiffers(address validator, bytes32 commitment, bytes32 given);
    error AccuracyOutOfRange(uint32 accuracy);

    constructor(RoundRegistry rounds_, Election election_, Terms memory terms_) {
        if (
            terms_.quorumPart <= PPM / 2 || terms_.quorumPart > PPM || terms_.tolerance == 0
                || terms_.commitSeconds == 0 || terms_.revealSeconds == 0
        ) revert TermsOutOfRange();
        (rounds, election, _terms) = (rounds_, election_, terms_);
    }

    /// @notice Begin the vote on the candidate of a measured round.
    function open(bytes32 task, uint64 round) external {
        Ballot storage ballot = _ballots[task][round];
        if (ballot.commitUntil != 0) revert BallotExists(task, round);
        RoundRegistry.Round memory measured = rounds.round(task, round);
        if (measured.state != RoundState.Measured) revert NotMeasured(task, round, measured.state);
        address[] memory elected = election.getValidators();
        uint256 total = election.totalWeight();
        if (total == 0) revert NobodyElected();
        for (uint256 i; i < elected.length; ++i) {
            Vote storage vote = _votes[task][round].push();
            vote.validator = elected[i];
            vote.weight = SafeCast.toUint96(election.weightOf(elected[i]));
        }
        ballot.commitUntil = uint64(block.timestamp) + _terms.commitSeconds;
        ballot.revealUntil = ballot.commitUntil + _terms.revealSeconds;
        ballot.deployment = rounds.task(task).deployment + 1;
        ballot.total = SafeCast.toUint96(total);
        ballot.parent = measured.base;
        ballot.model = measured.model;
        emit BallotOpened(task, round, measured.model, ballot.commitUntil, ballot.revealUntil, ballot.total);
    }

    /// @notice Enter commitments. One that stands already is passed over, so that nobody can spoil another's batch.
    function commit(bytes32 task, uint64 round, Commitment[] calldata commitments) external {
        Ballot storage ballot = _ballots[task][round];
        if (!_isCommitting(ballot)) revert NotCommitting(ballot.commitUntil);
        uint96 committed = ballot.committed;
        for (uint256 i; i < commitments.length; ++i) {
            Commitment calldata given = commitments[i];
            Vote storage vote = _seat(task, round, given.seat);
            if (vote.commitment == given.commitment && given.commitment != 0) continue;
            if (vote.commitment != 0 || given.commitment == 0) {
                revert CommitmentDiffers(vote.validator, vote.commitment, given.commitment);
            }
            bytes32 structHash = keccak256(abi.encode(COMMITMENT_TYPE, task, round, given.commitment));
            _requireSigned(vote.validator, structHash, given.signature);
            vote.commitment = given.commitment;
            committed += vote.weight;
            emit VoteCommitted(task, round, vote.validator, given.commitment);
        }
        ballot.committed = committed;
    }

    /// @notice Open commitments. One that is open already is passed over.
    function reveal(bytes32 task, uint64 round, Reveal[] calldata reveals) external {
        Ballot storage ballot = _ballots[task][round];
        if (_isCommitting(ballot) || block.timestamp >= ballot.revealUntil || ballot.closed) {
            revert NotRevealing(ballot.commitUntil, ballot.revealUntil);
        }
        bytes32 domain = AttestationHashes.domainOf(rounds);
        for (uint256 i; i < reveals.length; ++i) {
            Vote storage vote = _seat(task, round, reveals[i].seat);
            if (vote.revealed) continue;
            _check(task, round, ballot, vote, reveals[i], domain);
            Reveal calldata given = reveals[i];
            (vote.accuracy, vote.baseline, vote.approved, vote.revealed) =
                (given.accuracy, given.baseline, given.approved, true);
            ballot.revealed += vote.weight;
            if (given.approved) ballot.approved += vote.weight;
            emit VoteRevealed(
                task, round, vote.validator, given.accuracy, given.baseline, given.approved, given.signature
            );
        }
    }

    /// @notice Count, once all who committed have revealed or the time is over; and credit points for good votes.
    function close(bytes32 task, uint64 round) external returns (Verdict verdict) {
        Ballot storage ballot = _ballots[task][round];
        if (ballot.closed) revert AlreadyClosed(task, round);
        bool over = block.timestamp >= ballot.revealUntil && ballot.commitUntil != 0;
        if (!over && (_isCommitting(ballot) || ballot.commitUntil == 0 || ballot.revealed < ballot.committed)) {
            revert NotOver(ballot.revealUntil);
        }
        ballot.closed = true;
        (uint32 accuracy, uint32 baseline) = _medians(task, round);
        RoundRegistry.Task memory gate = rounds.task(task);
        bool genesis = round == 0; // M0 is not trained yet, and nothing was before it
        if (ballot.approved < Math.mulDiv(ballot.total, _terms.quorumPart, PPM, Math.Rounding.Ceil)) {
            verdict = Verdict.NoQuorum;
        } else if (!genesis && accuracy < gate.threshold) {
            verdict = Verdict.BelowThreshold;
        } else if (!genesis && uint256(accuracy) + gate.maxRegression < baseline) {
            verdict = Verdict.Regression;
        }
        (ballot.verdict, ballot.accuracy, ballot.baseline) = (verdict, accuracy, baseline);
        emit BallotClosed(task, round, verdict, accuracy, baseline, ballot.approved, ballot.total);
        _credit(task, round, accuracy);
    }

    // --- views ----------------------------------------------------------------------------------

    function ballotOf(bytes32 task, uint64 round) external view returns (Ballot memory) {
        return _ballots[task][round];
    }

    /// @notice One vote for each seat, heaviest first; a seat's position is what `commit` and `reveal` name.
    function votes(bytes32 task, uint64 round) external view returns (Vote[] memory) {
        return _votes[task][round];
    }

    /// @notice Whether a ballot is closed, and the gate says yes to exactly this model.
    function isApproved(bytes32 task, uint64 round, bytes32 model) external view returns (bool) {
        Ballot storage ballot = _ballots[task][round];
        return ballot.closed && ballot.verdict == Verdict.Approved && ballot.model == model;
    }

    function terms() external view returns (Terms memory) {
        return _terms;
    }

    // --- inside ---------------------------------------------------------------------------------

    function _isCommitting(Ballot storage ballot) private view returns (bool) {
        return block.timestamp < ballot.commitUntil && ballot.committed < ballot.total;
    }

    function _seat(bytes32 task, uint64 round, uint16 seat) private view returns (Vote storage) {
        if (seat >= _votes[task][round].length) revert UnknownSeat(seat);
        return _votes[task][round][seat];
    }

    function _check(
        bytes32 task,
        uint64 round,
        Ballot storage ballot,
        Vote storage vote,
        Reveal calldata given,
        bytes32 domain
    ) private view {
        address validator = vote.validator;
        if (!rounds.devices().isActive(validator, Role.Validator)) revert NotValidator(validator);
        if (given.accuracy > PPM || given.baseline > PPM) {
            revert AccuracyOutOfRange(given.accuracy > PPM ? given.accuracy : given.baseline);
        }
        bytes32 commitment = keccak256(given.signature);
        if (vote.commitment != commitment) revert CommitmentDiffers(validator, vote.commitment, commitment);
        bytes32 signed = AttestationHashes.signedHash(
            Attestations.ModelAttestation(
                task,
                round,
                ballot.deployment,
                ballot.parent,
                ballot.model,
                given.accuracy,
                given.baseline,
                given.approved
            ),
            domain
        );
        address signer = ECDSA.recoverCalldata(signed, given.signature);
        if (signer != validator) revert BadSignature(validator, signer);
    }

    /// @dev Of the votes that were revealed and weigh something; 0 and 0 where there are none.
    function _medians(bytes32 task, uint64 round) private view returns (uint32, uint32) {
        Vote[] memory all = _votes[task][round];
        uint256 count;
        for (uint256 i; i < all.length; ++i) {
            if (all[i].revealed && all[i].weight != 0) all[count++] = all[i];
        }
        if (count == 0) return (0, 0);
        uint32[] memory accuracies = new uint32[](count);
        uint32[] memory baselines = new uint32[](count);
        uint256[] memory weights = new uint256[](count);
        uint256[] memory again = new uint256[](count); // sorting moves the weights along
        for (uint256 i; i < count; ++i) {
            (accuracies[i], baselines[i]) = (all[i].accuracy, all[i].baseline);
            (weights[i], again[i]) = (all[i].weight, all[i].weight);
        }
        return (WeightedMedian.median(accuracies, weights), WeightedMedian.median(baselines, again));
    }

    /// @dev Whole points at the median, none at the tolerance, in a line between. An epoch that turned, or a role that
    /// is missing, costs points and not the verdict.
    function _credit(bytes32 task, uint64 round, uint32 accuracy) private {
        Vote[] storage all = _votes[task][round];
        uint32 tolerance = _terms.tolerance;
        for (uint256 i; i < all.length; ++i) {
            Vote memory vote = all[i];
            if (!vote.revealed) continue;
            uint32 distance = vote.accuracy > accuracy ? vote.accuracy - accuracy : accuracy - vote.accuracy;
            if (distance >= tolerance) continue;
            uint32 points = uint32(uint256(PPM) * (tolerance - distance) / tolerance);
            try election.credit(vote.validator, points) {}
            catch (bytes memory reason) {
                emit PointsRefused(vote.validator, reason);
            }
        }
    }
}
