// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Attestations} from "../src/Attestations.sol";
import {Verdict} from "../src/QualityGate.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {Signed} from "../src/Signed.sol";
import {WeightedMedian} from "../src/WeightedMedian.sol";
import {Cheats} from "./Cheats.sol";
import {Rounds} from "./Rounds.sol";

contract WeightedMedianTest is Cheats {
    /// With equal weights it is the middle value, and of an even number the mean of the two middle ones.
    function testFuzz_equalWeightsGiveTheMiddle(uint32[] memory values, uint96 weight) public pure {
        vm.assume(values.length > 0 && values.length < 32 && weight > 0);
        uint256 count = values.length;
        uint256[] memory weights = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            weights[i] = weight;
        }
        uint32 median = WeightedMedian.median(values, weights, count);
        for (uint256 i; i < count; ++i) {
            for (uint256 j = i + 1; j < count; ++j) {
                if (values[j] < values[i]) (values[i], values[j]) = (values[j], values[i]);
            }
        }
        assertEq(median, (uint256(values[(count - 1) / 2]) + values[count / 2]) / 2);
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

contract QualityVotesTest is Rounds {
    uint32 private constant PPM = 1_000_000;

    function setUp() public {
        vm.warp(1_000_000);
        _found(5, 5);
        _seatAll(); // 100, 90, 80, 70, 60: 400 in all, in this order
        _createTask(600_000);
        _proposeGenesis();
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
                _digest(0, 900_000, true),
                bytes22(keccak256(reveals[0].signature))
            )
        );
        quality.reveal(TASK, 0, reveals);
    }

    /// Whoever copies another's commitment can never open it: the signature names the other.
    function test_copiedCommitmentCannotBeOpened() public {
        _commit(0, 900_000, true);
        QualityVotes.Commitment[] memory copied = new QualityVotes.Commitment[](1);
        bytes22 commitment = _digest(0, 900_000, true);
        copied[0] =
            QualityVotes.Commitment(_validator(1), commitment, _signCommitment(_key(1), 0, commitment));
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
                _digest(0, 900_000, true),
                other[0].commitment
            )
        );
        quality.commit(TASK, 0, other);
    }

    function test_nobodyCommitsForAnother() public {
        QualityVotes.Commitment[] memory forged = new QualityVotes.Commitment[](1);
        forged[0] =
            QualityVotes.Commitment(_validator(0), bytes22(M0), _signCommitment(_key(1), 0, bytes22(M0)));
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
        election.slashContradictingSums(a, _signSum(_key(1), a), b, _signSum(_key(1), b));
        assert(quality.close(TASK, 0) == Verdict.NoQuorum); // 210 of 400
        assertEq(quality.ballotOf(TASK, 0).approved, 210 ether);
        assertEq(quality.ballotOf(TASK, 0).accuracy, 900_000);
    }

    function test_onlyTheRegistryOpensBallots() public {
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.NotRegistry.selector, address(this)));
        quality.open(TASK, 0, 1, M0);
    }

    function test_ballotIsClosedOnceAndOnlyIfThereIsOne() public {
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.NotOver.selector, 0));
        quality.close(TASK, 1);
        vm.warp(block.timestamp + COMMIT_S + REVEAL_S);
        assert(quality.close(TASK, 0) == Verdict.NoQuorum);
        vm.expectRevert(abi.encodeWithSelector(QualityVotes.AlreadyClosed.selector, TASK, 0));
        quality.close(TASK, 0);
        assert(quality.settle(TASK, 0).verdict == Verdict.NoQuorum); // says it again
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
            QualityVotes.Commitment(vm.addr(key), bytes22(M0), _signCommitment(key, 0, bytes22(M0)));
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
        (one[0],) = _vote(seat, 0, accuracy, 0, approved);
    }

    function _reveals(uint16 seat, uint32 accuracy, bool approved)
        private
        view
        returns (QualityVotes.Reveal[] memory one)
    {
        one = new QualityVotes.Reveal[](1);
        (, one[0]) = _vote(seat, 0, accuracy, 0, approved);
    }

    function _digest(uint16 seat, uint32 accuracy, bool approved) private view returns (bytes22) {
        return bytes22(keccak256(_reveals(seat, accuracy, approved)[0].signature));
    }
}
