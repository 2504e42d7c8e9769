// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AttestationHashes} from "../src/AttestationHashes.sol";
import {Attestations} from "../src/Attestations.sol";
import {QualityGate, Verdict} from "../src/QualityGate.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {RoundState} from "../src/RoundRegistry.sol";
import {Signed} from "../src/Signed.sol";
import {WeightedMedian} from "../src/WeightedMedian.sol";
import {Cheats} from "./Cheats.sol";
import {Consortium} from "./Consortium.sol";

contract WeightedMedianTest is Cheats {
    function testFuzz_equalWeightsGiveTheGatesMedian(uint32[] memory values, uint96 weight) public pure {
        vm.assume(values.length > 0 && values.length < 32 && weight > 0);
        uint256[] memory weights = new uint256[](values.length);
        uint32[] memory copy = new uint32[](values.length);
        for (uint256 i; i < values.length; ++i) {
            (weights[i], copy[i]) = (weight, values[i]);
        }
        assertEq(WeightedMedian.median(values, weights, values.length), QualityGate.median(copy));
    }

    /// At most half of the weight lies strictly below the median, and at most half strictly above.
    function testFuzz_halfOfTheWeightLiesOnEachSide(uint32[7] memory values, uint96[7] memory weights) public pure {
        uint32[] memory sorted = new uint32[](7);
        uint256[] memory moved = new uint256[](7);
        uint256 total;
        for (uint256 i; i < 7; ++i) {
            if (weights[i] == 0) weights[i] = 1;
            (sorted[i], moved[i]) = (values[i], weights[i]);
            total += weights[i];
        }
        uint32 median = WeightedMedian.median(sorted, moved, 7);
        uint256 below;
        uint256 above;
        for (uint256 i; i < 7; ++i) {
            if (values[i] < median) below += weights[i];
            if (values[i] > median) above += weights[i];
        }
        assert(2 * below <= total && 2 * above <= total);
    }

    /// Whoever holds less than half cannot move it out of what the others said.
    function testFuzz_minorityCannotMoveItOut(uint32 lie, uint32 low, uint32 high, uint96 weight) public pure {
        vm.assume(low <= high);
        uint256 liar = within(weight, 1, 99);
        uint32[] memory values = new uint32[](3);
        uint256[] memory weights = new uint256[](3);
        (values[0], values[1], values[2]) = (high, lie, low);
        (weights[0], weights[1], weights[2]) = (50, liar, 50);
        uint32 median = WeightedMedian.median(values, weights, 3);
        assert(median >= low && median <= high);
    }
}

contract QualityVotesTest is Consortium {
    bytes32 private constant TASK = keccak256("hydraulic");
    bytes32 private constant M0 = keccak256("M0");
    uint32 private constant PPM = 1_000_000;
    uint64 private constant COMMIT_S = 60;
    uint64 private constant REVEAL_S = 40;

    QualityVotes private quality;

    function setUp() public {
        vm.warp(1_000_000);
        _found(5, 5);
        _seatAll(); // 100, 90, 80, 70, 60: 400 in all, in this order
        quality = new QualityVotes(rounds, election, QualityVotes.Terms(600_000, 100_000, COMMIT_S, REVEAL_S));
        election.grantRole(election.SCORER_ROLE(), address(quality));
        rounds.createTask("hydraulic", 600_000, 20_000, 3, 1);
        rounds.proposeGenesis(TASK, M0, M0);
        quality.open(TASK, 0);
    }

    function test_allCommitAndRevealAndTheGateSaysYes() public {
        for (uint16 i; i < 5; ++i) {
            _commit(i, 900_000, true);
        }
        for (uint16 i; i < 5; ++i) {
            _reveal(i, 900_000, true);
        }
        assert(quality.close(TASK, 0) == Verdict.Approved); // at once: nobody is missing
        assert(quality.isApproved(TASK, 0, M0) && !quality.isApproved(TASK, 0, TASK));
        QualityVotes.Ballot memory ballot = quality.ballotOf(TASK, 0);
        assertEq(ballot.accuracy, 900_000);
        assertEq(ballot.approved, 400 ether);
    }

    /// Approved means: the approving stake reaches the quorum of all elected stake; who is missing approves nothing.
    function testFuzz_quorumCountsElectedStake(uint8 committing, uint8 revealing, uint8 approving) public {
        uint256 approved;
        for (uint16 i; i < 5; ++i) {
            if (committing >> i & 1 == 1) _commit(i, 500_000, approving >> i & 1 == 1);
        }
        vm.warp(block.timestamp + COMMIT_S);
        for (uint16 i; i < 5; ++i) {
            if ((committing & revealing) >> i & 1 == 0) continue;
            bool approves = approving >> i & 1 == 1;
            _reveal(i, 500_000, approves);
            if (approves) approved += 100 ether - uint256(i) * 10 ether;
        }
        vm.warp(block.timestamp + REVEAL_S);
        Verdict verdict = quality.close(TASK, 0);
        assert((verdict == Verdict.Approved) == (approved >= 240 ether));
        assertEq(quality.ballotOf(TASK, 0).approved, approved);
    }

    function test_medianIsWeighedAndDistanceCostsPoints() public {
        uint32[5] memory accuracies = [uint32(700_000), 690_000, 650_000, 100_000, 100_000];
        for (uint16 i; i < 5; ++i) {
            _commit(i, accuracies[i], true);
        }
        for (uint16 i; i < 5; ++i) {
            _reveal(i, accuracies[i], true);
        }
        quality.close(TASK, 0);
        assertEq(quality.ballotOf(TASK, 0).accuracy, 650_000); // 130 of 400 below it, 190 above
        election.fund(1 ether);
        vm.warp(election.epochEnds());
        election.closeEpoch();
        (uint256 near,) = election.stakeOf(_validator(2));
        (uint256 further,) = election.stakeOf(_validator(0));
        (uint256 far,) = election.stakeOf(_validator(3));
        // points: 500_000, 600_000, 1_000_000, 0, 0, by weight 100, 90, 80
        assertEq(near, 80 ether + uint256(1 ether) * 80 / 184);
        assertEq(further, 100 ether + uint256(1 ether) * 50 / 184);
        assertEq(far, 70 ether);
    }

    /// What was committed is what must be revealed.
    function testFuzz_nothingElseCanBeRevealed(uint32 accuracy, bool approved) public {
        accuracy %= PPM + 1;
        vm.assume(accuracy != 900_000 || !approved);
        _commit(0, 900_000, true);
        vm.warp(block.timestamp + COMMIT_S);
        QualityVotes.Reveal[] memory reveals = _reveals(0, accuracy, approved);
        vm.expectRevert(
            abi.encodeWithSelector(
                QualityVotes.CommitmentDiffers.selector,
                _validator(0),
                bytes22(keccak256(_vote(0, 900_000, true))),
                bytes22(keccak256(reveals[0].signature))
            )
        );
        quality.reveal(TASK, 0, reveals);
    }

    /// Whoever copies another's commitment can never open it: the signature names the other.
    function test_copiedCommitmentCannotBeOpened() public {
        _commit(0, 900_000, true);
        QualityVotes.Commitment[] memory copied = new QualityVotes.Commitment[](1);
        bytes22 commitment = bytes22(keccak256(_vote(0, 900_000, true)));
        copied[0] =
            QualityVotes.Commitment(_validator(1), commitment, _signFor(quality, _key(1), _commitmentHash(commitment)));
        quality.commit(TASK, 0, copied);
        vm.warp(block.timestamp + COMMIT_S);
        QualityVotes.Reveal[] memory reveals = _reveals(0, 900_000, true);
        reveals[0].validator = _validator(1);
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, _validator(1), _validator(0)));
        quality.reveal(TASK, 0, reveals);
    }

    function test_commitmentStandsAndSendingItAgainDoesNothing() public {
        _commit(0, 900_000, true);
        _commit(0, 900_000, true);
        assertEq(quality.ballotOf(TASK, 0).committed, 1);
        QualityVotes.Commitment[] memory other = _commitments(0, 800_000, true);
        vm.expectRevert(
            abi.encodeWithSelector(
                QualityVotes.CommitmentDiffers.selector,
                _validator(0),
                bytes22(keccak256(_vote(0, 900_000, true))),
                other[0].commitment
            )
        );
        quality.commit(TASK, 0, other);
    }

    function test_nobodyCommitsForAnother() public {
        QualityVotes.Commitment[] memory forged = new QualityVotes.Commitment[](1);
        forged[0] =
            QualityVotes.Commitment(_validator(0), bytes22(M0), _signFor(quality, _key(1), _commitmentHash(bytes22(M0))));
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, _validator(0), _validator(1)));
        quality.commit(TASK, 0, forged);
    }

    /// Commit, reveal and close each have their time, whatever the time is.
    function testFuzz_phasesFollowTheClock(uint64 after_) public {
        after_ = uint64(within(after_, 0, 2 * (COMMIT_S + REVEAL_S)));
        _commit(0, 900_000, true);
        QualityVotes.Commitment[] memory late = _commitments(1, 900_000, true);
        QualityVotes.Reveal[] memory reveals = _reveals(0, 900_000, true);
        vm.warp(block.timestamp + after_);
        (bool committed,) = address(quality).call(abi.encodeCall(quality.commit, (TASK, 0, late)));
        assert(committed == (after_ < COMMIT_S));
        (bool closed,) = address(quality).call(abi.encodeCall(quality.close, (TASK, 0)));
        assert(closed == (after_ >= COMMIT_S + REVEAL_S));
        (bool revealed,) = address(quality).call(abi.encodeCall(quality.reveal, (TASK, 0, reveals)));
        assert(revealed == (after_ >= COMMIT_S && after_ < COMMIT_S + REVEAL_S));
    }

    /// Whoever is suspended or slashed before the count has no vote in it, and is missing from the quorum.
    function test_suspensionAndSlashActUntilTheBallotIsClosed() public {
        for (uint16 i; i < 5; ++i) {
            _commit(i, i < 2 ? 200_000 : 900_000, true);
        }
        for (uint16 i; i < 5; ++i) {
            _reveal(i, i < 2 ? 200_000 : 900_000, true);
        }
        devices.suspend(_validator(0));
        Attestations.SumAttestation memory a = Attestations.SumAttestation(TASK, 1, M0, M0, 3, 9);
        Attestations.SumAttestation memory b = Attestations.SumAttestation(TASK, 1, M0, TASK, 3, 9);
        bytes32 domain = AttestationHashes.domainOf(rounds);
        election.slashContradictingSums(
            a,
            _signRaw(_key(1), AttestationHashes.signedHash(a, domain)),
            b,
            _signRaw(_key(1), AttestationHashes.signedHash(b, domain))
        );
        assert(quality.close(TASK, 0) == Verdict.NoQuorum); // 210 of 400
        assertEq(quality.ballotOf(TASK, 0).approved, 210 ether);
        assertEq(quality.ballotOf(TASK, 0).accuracy, 900_000);
    }

    function test_ballotNeedsAMeasuredRoundAndIsOpenedAndClosedOnce() public {
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.BallotExists.selector, TASK, 0));
        quality.open(TASK, 0);
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.NotMeasured.selector, TASK, 1, RoundState.None));
        quality.open(TASK, 1);
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.NotOver.selector, 0));
        quality.close(TASK, 1);
        vm.warp(block.timestamp + COMMIT_S + REVEAL_S);
        assert(quality.close(TASK, 0) == Verdict.NoQuorum);
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.AlreadyClosed.selector, TASK, 0));
        quality.close(TASK, 0);
    }

    /// The weights are those of the opening: an epoch that turns meanwhile changes neither votes nor verdict.
    function test_epochThatTurnsCostsPointsAndNotTheVerdict() public {
        for (uint16 i; i < 5; ++i) {
            _commit(i, 900_000, true);
        }
        vm.prank(_validator(0));
        election.retire();
        vm.warp(block.timestamp + COMMIT_S - 1);
        for (uint16 i; i < 5; ++i) {
            _reveal(i, 900_000, true);
        }
        vm.warp(election.epochEnds());
        election.closeEpoch();
        assert(quality.close(TASK, 0) == Verdict.Approved);
        assertEq(quality.ballotOf(TASK, 0).approved, 400 ether);
    }

    function testFuzz_onlyTheElectedCommit(uint256 key) public {
        key = within(key, 1, 1 << 200);
        for (uint256 i; i < VALIDATORS; ++i) {
            vm.assume(key != _key(i));
        }
        QualityVotes.Commitment[] memory given = new QualityVotes.Commitment[](1);
        given[0] =
            QualityVotes.Commitment(vm.addr(key), bytes22(M0), _signFor(quality, key, _commitmentHash(bytes22(M0))));
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.NotElected.selector, vm.addr(key), 1));
        quality.commit(TASK, 0, given);
    }

    // --- helpers --------------------------------------------------------------------------------

    function _commit(uint16 seat, uint32 accuracy, bool approved) private {
        quality.commit(TASK, 0, _commitments(seat, accuracy, approved));
    }

    function _reveal(uint16 seat, uint32 accuracy, bool approved) private {
        quality.reveal(TASK, 0, _reveals(seat, accuracy, approved));
    }

    function _commitments(uint16 seat, uint32 accuracy, bool approved)
        private
        view
        returns (QualityVotes.Commitment[] memory one)
    {
        one = new QualityVotes.Commitment[](1);
        bytes22 commitment = bytes22(keccak256(_vote(seat, accuracy, approved)));
        one[0] = QualityVotes.Commitment(
            _validator(seat), commitment, _signFor(quality, _key(seat), _commitmentHash(commitment))
        );
    }

    function _reveals(uint16 seat, uint32 accuracy, bool approved)
        private
        view
        returns (QualityVotes.Reveal[] memory one)
    {
        one = new QualityVotes.Reveal[](1);
        one[0] = QualityVotes.Reveal(_validator(seat), accuracy, 0, approved, _vote(seat, accuracy, approved));
    }

    function _vote(uint16 seat, uint32 accuracy, bool approved) private view returns (bytes memory) {
        return _signRaw(
            _key(seat),
            AttestationHashes.signedHash(
                Attestations.ModelAttestation(TASK, 0, 1, 0, M0, accuracy, 0, approved),
                AttestationHashes.domainOf(rounds)
            )
        );
    }

    function _commitmentHash(bytes22 commitment) private pure returns (bytes32) {
        bytes32 kind = keccak256("VoteCommitment(bytes32 task,uint64 round,bytes22 commitment)");
        return keccak256(abi.encode(kind, TASK, uint64(0), commitment));
    }
}
