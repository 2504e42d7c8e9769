// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Attestations} from "../src/Attestations.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Election} from "../src/Election.sol";
import {Verdict} from "../src/QualityGate.sol";
import {QualityVotes} from "../src/QualityVotes.sol";
import {RoundRegistry, RoundState} from "../src/RoundRegistry.sol";
import {Signed} from "../src/Signed.sol";
import {Rounds} from "./Rounds.sol";

contract RoundRegistryTest is Rounds {
    bytes32 private constant M1 = keccak256("M1");
    bytes32 private constant M2 = keccak256("M2");
    bytes32 private constant OTHER = keccak256("other");
    address private constant STRANGER = address(0xbad);

    function setUp() public {
        vm.warp(1_000_000);
        vm.roll(7);
        _found(5, 5);
        _seatAll(); // 100, 90, 80, 70, 60: 400 in all, in this order
        _createTask(QUORUM_PART); // 266.67 of 400
        _founded();
    }

    // --- states -----------------------------------------------------------------------------------

    /// Whatever is called in whatever order, a state is only ever left along an arrow of the picture.
    function testFuzz_statesFollowThePicture(uint8[48] memory calls) public {
        _openRound(1);
        for (uint256 i; i < calls.length; ++i) {
            RoundState before = rounds.round(TASK, 1).state;
            _call(calls[i] % 11);
            RoundState later = rounds.round(TASK, 1).state;
            assert(later == before || _isArrow(before, later));
        }
    }

    /// The same, led along the way half of the time, so that the late states are seen.
    function testFuzz_statesFollowThePictureToItsEnd(uint8[16] memory calls, uint8 steps) public {
        _openRound(1);
        for (uint256 i; i < steps % 9; ++i) {
            assert(_call([0, 1, 2, 3, 4, 5, 6, 7, 8][i]));
        }
        for (uint256 i; i < calls.length; ++i) {
            RoundState before = rounds.round(TASK, 1).state;
            _call(calls[i] % 11);
            RoundState later = rounds.round(TASK, 1).state;
            assert(later == before || _isArrow(before, later));
        }
    }

    function testFuzz_strangersMoveNothing(address stranger, uint8 steps) public {
        for (uint256 i; i < VALIDATORS; ++i) {
            vm.assume(stranger != _validator(i));
        }
        vm.assume(stranger != address(this) && stranger != address(vm) && stranger != vm.addr(COORDINATOR));
        vm.assume(stranger != vm.addr(CUSTODIAN) && stranger != vm.addr(LISTENER));
        if (steps % 9 > 0) _openRound(1);
        for (uint256 i = 1; i < steps % 9; ++i) {
            assert(_call(i - 1));
        }
        bytes[11] memory calls = [
            abi.encodeCall(rounds.bind, (election, quality)),
            abi.encodeCall(rounds.createTask, ("another", 0, 0, 1, QUORUM_PART, POLICY)),
            abi.encodeCall(rounds.setPolicy, (TASK, OTHER)),
            abi.encodeCall(rounds.openRound, (TASK, 1, M0, POLICY)),
            abi.encodeCall(rounds.closeList, (TASK, 1, ROOT)),
            abi.encodeCall(rounds.proposeSum, (TASK, 1, ROOT, DIGEST, OWNERS, WEIGHT)),
            abi.encodeCall(rounds.recordOpening, (TASK, 1, ROOT)),
            abi.encodeCall(rounds.proposeCandidate, (TASK, 1, M1, ROOT, GOOD)),
            abi.encodeCall(rounds.abort, (TASK, 1, "stranger")),
            abi.encodeCall(rounds.recordDeployed, (TASK, 1, 1)),
            abi.encodeCall(rounds.rollBack, (TASK, 1, 1, ROOT))
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.prank(stranger);
            (bool done,) = address(rounds).call(calls[i]);
            assert(!done);
        }
    }

    function test_roundIsOpenedOnceTheLastIsFinalAndFromTheModelInUse() public {
        _openRound(1);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.LastRoundNotFinal.selector, 1, RoundState.Open));
        rounds.openRound(TASK, 2, M0, POLICY);
        _abort(1);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotNextRound.selector, 3, 2));
        rounds.openRound(TASK, 3, M0, POLICY);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotModelInUse.selector, OTHER, M0));
        rounds.openRound(TASK, 2, OTHER, POLICY);
        _openRound(2);
    }

    function test_roundKeepsTheBlockAndTheEpochOfItsBeginning() public {
        vm.roll(40);
        _openRound(1);
        vm.roll(41);
        _nextEpoch();
        _closeList(1);
        RoundRegistry.Round memory round = rounds.round(TASK, 1);
        assertEq(round.openedBlock, 40);
        assertEq(round.epoch, 1);
        assertEq(election.epoch(), 2);
        assertEq(rounds.round(TASK, 0).openedBlock, 7);
    }

    // --- founding ---------------------------------------------------------------------------------

    function test_boundOnceByTheOperatorToWhatBelongsTogether() public {
        vm.expectRevert(
            abi.encodeWithSelector(RoundRegistry.AlreadyBound.selector, address(election), address(quality))
        );
        rounds.bind(election, quality);
        RoundRegistry another = new RoundRegistry(devices);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotBound.selector));
        another.createTask("hydraulic", 0, 0, 1, QUORUM_PART, POLICY);
        vm.expectRevert(
            abi.encodeWithSelector(RoundRegistry.BoundElsewhere.selector, address(election), address(quality))
        );
        another.bind(election, quality);
        Election.Terms memory terms = election.terms();
        Election itsOwn = new Election(token, devices, another, address(this), terms);
        QualityVotes mixed = new QualityVotes(another, election, quality.terms());
        vm.expectRevert(
            abi.encodeWithSelector(RoundRegistry.BoundElsewhere.selector, address(itsOwn), address(mixed))
        );
        another.bind(itsOwn, mixed);
        QualityVotes right = new QualityVotes(another, itsOwn, quality.terms());
        bytes32 operator = devices.OPERATOR_ROLE();
        vm.prank(STRANGER);
        vm.expectRevert(_unauthorized(STRANGER, operator));
        another.bind(itsOwn, right);
        another.bind(itsOwn, right);
        assert(address(another.election()) == address(itsOwn) && address(another.votes()) == address(right));
    }

    /// Before anybody is elected nothing begins: there would be no quorum to ask.
    function test_nothingBeginsBeforeSomebodyIsElected() public {
        _found(5, 5);
        _createTask(QUORUM_PART);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NobodyElected.selector));
        rounds.proposeGenesis(TASK, M0, POLICY);
        _seatAll();
        _founded();
    }

    function testFuzz_gateOutOfRangeIsRefused(uint32 threshold, uint32 regression, uint32 owners, uint32 part) public {
        (threshold, regression, part) = (threshold % 2_000_000, regression % 2_000_000, part % 2_000_000);
        bool good = threshold <= 1_000_000 && regression <= 1_000_000 && owners != 0 && part > 500_000
            && part <= 1_000_000;
        (bool done,) = address(rounds).call(
            abi.encodeCall(rounds.createTask, ("another", threshold, regression, owners, part, POLICY))
        );
        assert(done == good);
    }

    function test_taskIsCreatedOnceAndWithAPolicy() public {
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.TaskExists.selector, TASK));
        _createTask(QUORUM_PART);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.DigestMissing.selector));
        rounds.createTask("another", 0, 0, 1, QUORUM_PART, 0);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.UnknownTask.selector, OTHER));
        rounds.setPolicy(OTHER, POLICY);
    }

    // --- policy -----------------------------------------------------------------------------------

    function test_policyIsTheAdministratorsAndFreezesWithTheRound() public {
        _openRound(1);
        rounds.setPolicy(TASK, OTHER);
        assert(rounds.task(TASK).policy == OTHER && rounds.round(TASK, 1).policy == POLICY);
        _abort(1);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.PolicyDiffers.selector, POLICY, OTHER));
        rounds.openRound(TASK, 2, M0, POLICY);
        _as(COORDINATOR);
        rounds.openRound(TASK, 2, M0, OTHER);
        devices.renounceRole(0, address(this)); // still the operator
        vm.expectRevert(_unauthorized(address(this), 0));
        rounds.setPolicy(TASK, POLICY);
    }

    // --- sums -------------------------------------------------------------------------------------

    /// Confirmed means: the stake that signed reaches the quorum's part of all that is elected.
    function testFuzz_sumIsConfirmedByStake(uint8 first, uint8 second) public {
        _openRound(1);
        _closeList(1);
        _proposeSum(1);
        uint256 weight;
        rounds.attestSums(TASK, 1, _signaturesOf(first));
        rounds.attestSums(TASK, 1, _signaturesOf(second)); // who is in both counts once
        for (uint256 i; i < VALIDATORS; ++i) {
            if ((first | second) >> i & 1 == 1) weight += 100 ether - i * 10 ether;
        }
        bool confirmed = rounds.round(TASK, 1).state == RoundState.Confirmed;
        assert(confirmed == (weight * 1_000_000 >= 400 ether * uint256(QUORUM_PART)));
    }

    function test_onlyTheElectedOfTheRoundConfirm() public {
        _openRound(1);
        _closeList(1);
        _proposeSum(1);
        RoundRegistry.SumSignature[] memory signatures = _sumSignatures(1, 5);
        devices.suspend(_validator(0));
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotElected.selector, _validator(0), 1));
        rounds.attestSums(TASK, 1, signatures);
        signatures[0] = RoundRegistry.SumSignature(vm.addr(99), _signSum(99, _sum(1)));
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotElected.selector, vm.addr(99), 1));
        rounds.attestSums(TASK, 1, signatures);
        signatures[0] = RoundRegistry.SumSignature(_validator(1), signatures[2].signature);
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, _validator(1), _validator(2)));
        rounds.attestSums(TASK, 1, signatures);
        assert(rounds.round(TASK, 1).state == RoundState.Aggregated);
    }

    /// Who is elected later has no say in a round that began before, and who no longer sits still has.
    function test_electorateIsThatOfTheRoundsBeginning() public {
        vm.prank(_validator(0));
        election.retire();
        _nextEpoch();
        _openRound(1); // the set of epoch 2: without the heaviest
        vm.prank(_validator(0));
        election.stake(1 ether, address(0));
        vm.prank(_validator(1));
        election.retire();
        _nextEpoch();
        _closeList(1);
        _proposeSum(1);
        RoundRegistry.SumSignature[] memory one = new RoundRegistry.SumSignature[](1);
        one[0] = _sumSignature(0, 1);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotElected.selector, _validator(0), 2));
        rounds.attestSums(TASK, 1, one);
        rounds.attestSums(TASK, 1, _sumSignatures(1, 3)); // 90, 80, 70 of 300
        assert(rounds.round(TASK, 1).state == RoundState.Confirmed);
    }

    /// A signature over any other value confirms nothing.
    function testFuzz_onlyTheProposedSumCanBeConfirmed(bytes32 digest, uint32 owners, uint64 weight) public {
        vm.assume(digest != DIGEST || owners != OWNERS || weight != WEIGHT);
        _openRound(1);
        _closeList(1);
        _proposeSum(1);
        RoundRegistry.SumSignature[] memory one = new RoundRegistry.SumSignature[](1);
        one[0] = RoundRegistry.SumSignature(
            _validator(0),
            _signSum(_key(0), Attestations.SumAttestation(TASK, 1, ROOT, digest, owners, weight))
        );
        (bool done,) = address(rounds).call(abi.encodeCall(rounds.attestSums, (TASK, 1, one)));
        assert(!done);
    }

    // --- verdicts ---------------------------------------------------------------------------------

    /// The gate decides whoever calls, the coordinator has no word in it, and a vote that runs is not cut short.
    function testFuzz_verdictIsTheBallots(address anybody, uint32 accuracy, uint32 baseline, bool approve) public {
        (accuracy, baseline) = (accuracy % 1_000_001, baseline % 1_000_001);
        _toMeasured(1, M1);
        vm.expectRevert(
            abi.encodeWithSelector(QualityVotes.NotOver.selector, block.timestamp + COMMIT_S + REVEAL_S)
        );
        rounds.finalise(TASK, 1);
        _measure(1, accuracy, baseline, approve);
        vm.prank(anybody);
        rounds.finalise(TASK, 1);
        bool good = approve && accuracy >= THRESHOLD && uint256(accuracy) + MAX_REGRESSION >= baseline;
        RoundRegistry.Round memory round = rounds.round(TASK, 1);
        assert(round.state == (good ? RoundState.Approved : RoundState.Rejected));
        assert(round.accuracy == accuracy && round.baseline == baseline);
        assert(rounds.task(TASK).model == (good ? M1 : M0));
        assertEq(rounds.task(TASK).deployment, good ? 2 : 1);
    }

    function test_ballotThatSomebodyClosedIsFinalisedAllTheSame() public {
        _toMeasured(1, M1);
        _measure(1, GOOD, GOOD, true);
        assert(quality.close(TASK, 1) == Verdict.Approved);
        rounds.finalise(TASK, 1);
        assert(rounds.round(TASK, 1).state == RoundState.Approved);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.WrongState.selector, RoundState.Approved));
        rounds.finalise(TASK, 1);
    }

    function test_silenceIsNo() public {
        _toMeasured(1, M1);
        vm.warp(block.timestamp + COMMIT_S + REVEAL_S);
        rounds.finalise(TASK, 1);
        assert(rounds.round(TASK, 1).state == RoundState.Rejected);
        assert(quality.ballotOf(TASK, 1).verdict == Verdict.NoQuorum);
    }

    function test_lineageNamesParentRoundAndDeployment() public {
        _toDeployed(1, M1);
        RoundRegistry.Lineage memory lineage = rounds.lineage(TASK, M0);
        assert(lineage.deployment == 1 && lineage.round == 0 && lineage.parent == 0 && !lineage.rolledBack);
        lineage = rounds.lineage(TASK, M1);
        assert(lineage.deployment == 2 && lineage.round == 1 && lineage.parent == M0 && !lineage.rolledBack);
        assertEq(rounds.lineage(TASK, OTHER).deployment, 0);
        assertEq(rounds.lineage(TASK, 0).deployment, 0);
    }

    function test_rejectedModelMayComeAgainAndApprovedOnesMayNot() public {
        _toMeasured(1, M1);
        _decide(1, 0, GOOD, true);
        assertEq(rounds.lineage(TASK, M1).deployment, 0);
        _toDeployed(2, M1);
        assertEq(rounds.lineage(TASK, M1).round, 2);
        _toConfirmed(3);
        _recordOpening(3);
        bytes32[2] memory models = [M0, M1];
        for (uint64 i; i < 2; ++i) {
            _as(COORDINATOR);
            vm.expectRevert(abi.encodeWithSelector(RoundRegistry.ModelKnown.selector, models[i], 2 * i));
            rounds.proposeCandidate(TASK, 3, models[i], ROOT, GOOD);
        }
    }

    // --- back to the parent -----------------------------------------------------------------------

    function test_listenerTakesBackWhatCanariesRefuse() public {
        _toApproved(1, M1);
        _as(LISTENER);
        rounds.rollBack(TASK, 1, 2, ROOT);
        RoundRegistry.Task memory task = rounds.task(TASK);
        assert(task.model == M0 && task.deployment == 3 && task.lastRound == 1);
        assert(rounds.round(TASK, 1).state == RoundState.RolledBack);
        assertEq(rounds.round(TASK, 1).deployment, 2);
        RoundRegistry.Lineage memory lineage = rounds.lineage(TASK, M1);
        assert(lineage.rolledBack && lineage.deployment == 2 && lineage.parent == M0);
        assert(!rounds.lineage(TASK, M0).rolledBack);
    }

    /// While canaries try a model it is the listener's, once it is everywhere the operator's, and nobody's after that.
    function test_whoRollsBackFollowsTheState() public {
        _toApproved(1, M1);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotInRole.selector, address(this), Role.Listener));
        rounds.rollBack(TASK, 1, 2, ROOT);
        _recordDeployed(1);
        bytes32 operator = devices.OPERATOR_ROLE();
        _as(LISTENER);
        vm.expectRevert(_unauthorized(vm.addr(LISTENER), operator));
        rounds.rollBack(TASK, 1, 2, ROOT);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.DigestMissing.selector));
        rounds.rollBack(TASK, 1, 2, 0);
        rounds.rollBack(TASK, 1, 2, ROOT);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.WrongState.selector, RoundState.RolledBack));
        rounds.rollBack(TASK, 1, 2, ROOT);
        _as(LISTENER);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.WrongState.selector, RoundState.RolledBack));
        rounds.recordDeployed(TASK, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.WrongState.selector, RoundState.None));
        rounds.rollBack(TASK, 9, 2, ROOT);
    }

    function test_nothingIsBeforeM0() public {
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NothingBefore.selector, M0));
        rounds.rollBack(TASK, 0, 1, ROOT);
        _found(5, 5);
        _seatAll();
        _createTask(QUORUM_PART);
        _proposeGenesis();
        _decide(0, 0, 0, true); // approved, not deployed
        _as(LISTENER);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NothingBefore.selector, M0));
        rounds.rollBack(TASK, 0, 1, ROOT);
    }

    function test_modelThatARoundBuildsOnIsNotRolledBackUnderIt() public {
        _toDeployed(1, M1);
        _openRound(2);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.LastRoundNotFinal.selector, 2, RoundState.Open));
        rounds.rollBack(TASK, 1, 2, ROOT);
        _abort(2);
        rounds.rollBack(TASK, 1, 2, ROOT); // M1 is still in use: round 2 came to nothing
        assert(rounds.task(TASK).model == M0);
    }

    function test_onlyWhatIsInUseIsRolledBackStepByStep() public {
        _toDeployed(1, M1);
        _toDeployed(2, M2);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotModelInUse.selector, M1, M2));
        rounds.rollBack(TASK, 1, 2, ROOT);
        rounds.rollBack(TASK, 2, 2, ROOT);
        assert(rounds.task(TASK).model == M1 && rounds.task(TASK).deployment == 4);
        rounds.rollBack(TASK, 1, 2, ROOT);
        assert(rounds.task(TASK).model == M0 && rounds.task(TASK).deployment == 5);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NothingBefore.selector, M0));
        rounds.rollBack(TASK, 0, 2, ROOT);
    }

    /// After a rollback the next round begins from the parent; the number goes on; what failed never comes back.
    function test_nextRoundBeginsFromTheParent() public {
        _toApproved(1, M1);
        _as(LISTENER);
        rounds.rollBack(TASK, 1, 2, ROOT);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.NotModelInUse.selector, M1, M0));
        rounds.openRound(TASK, 2, M1, POLICY);
        _toConfirmed(2);
        _recordOpening(2);
        _as(COORDINATOR);
        vm.expectRevert(abi.encodeWithSelector(RoundRegistry.ModelKnown.selector, M1, 1));
        rounds.proposeCandidate(TASK, 2, M1, ROOT, GOOD);
        _proposeCandidate(2, M2);
        assertEq(rounds.measured(TASK, 2).deployment, 4); // 1, 2, back under 3
        _decide(2, GOOD, GOOD, true);
        _recordDeployed(2);
        RoundRegistry.Lineage memory lineage = rounds.lineage(TASK, M2);
        assert(lineage.parent == M0 && lineage.deployment == 4 && !lineage.rolledBack);
        assertEq(rounds.task(TASK).deployment, 4);
    }

    /// Votes for the number that a rollback has taken fit nothing any more.
    function test_voteForANumberThatIsGoneIsNone() public {
        _toMeasured(1, M1);
        Attestations.ModelAttestation memory early = rounds.measured(TASK, 1);
        _decide(1, GOOD, GOOD, true);
        _as(LISTENER);
        rounds.rollBack(TASK, 1, 2, ROOT);
        _toMeasured(2, M2);
        (early.round, early.model) = (2, M2);
        (early.accuracy, early.baseline, early.approved) = (GOOD, GOOD, true);
        bytes memory signature = _signModel(_key(0), early);
        bytes22 digest = bytes22(keccak256(signature));
        QualityVotes.Commitment[] memory commitments = new QualityVotes.Commitment[](1);
        commitments[0] = QualityVotes.Commitment(_validator(0), digest, _signCommitment(_key(0), 2, digest));
        quality.commit(TASK, 2, commitments);
        vm.warp(block.timestamp + COMMIT_S);
        QualityVotes.Reveal[] memory reveals = new QualityVotes.Reveal[](1);
        reveals[0] = QualityVotes.Reveal(_validator(0), GOOD, GOOD, true, signature);
        (bool done,) = address(quality).call(abi.encodeCall(quality.reveal, (TASK, 2, reveals)));
        assert(!done);
    }

    // --- helpers ----------------------------------------------------------------------------------

    function _isArrow(RoundState from, RoundState to) private pure returns (bool) {
        if (to == RoundState.Aborted) return from >= RoundState.Open && from <= RoundState.Measured;
        if (to == RoundState.Rejected) return from == RoundState.Measured;
        if (to == RoundState.Deployed) return from == RoundState.Approved;
        if (to == RoundState.RolledBack) return from == RoundState.Approved || from == RoundState.Deployed;
        return uint8(to) == uint8(from) + 1;
    }

    /// What each party may send in round 1, in the order of a round; the ballot is filled on the way.
    function _call(uint256 which) private returns (bool done) {
        bytes memory data;
        uint256 key = COORDINATOR;
        if (which == 0) data = abi.encodeCall(rounds.closeList, (TASK, 1, ROOT));
        else if (which == 1) data = abi.encodeCall(rounds.proposeSum, (TASK, 1, ROOT, DIGEST, OWNERS, WEIGHT));
        else if (which == 2) data = abi.encodeCall(rounds.attestSums, (TASK, 1, _sumSignatures(1, 5)));
        else if (which == 3) (key, data) = (CUSTODIAN, abi.encodeCall(rounds.recordOpening, (TASK, 1, ROOT)));
        else if (which == 4) data = abi.encodeCall(rounds.proposeCandidate, (TASK, 1, M1, ROOT, GOOD));
        else if (which == 5) return _measured();
        else if (which == 6) data = abi.encodeCall(rounds.finalise, (TASK, 1));
        else if (which == 7) (key, data) = (LISTENER, abi.encodeCall(rounds.recordDeployed, (TASK, 1, 1)));
        else if (which == 8) return _rolledBack(address(this));
        else if (which == 9) return _rolledBack(vm.addr(LISTENER));
        else data = abi.encodeCall(rounds.abort, (TASK, 1, "fuzz"));
        _as(key);
        (done,) = address(rounds).call(data);
    }

    function _measured() private returns (bool) {
        if (rounds.round(TASK, 1).state != RoundState.Measured || quality.ballotOf(TASK, 1).revealed != 0) return false;
        _measure(1, GOOD, GOOD, true);
        return true;
    }

    function _rolledBack(address sender) private returns (bool done) {
        vm.prank(sender);
        (done,) = address(rounds).call(abi.encodeCall(rounds.rollBack, (TASK, 1, 1, ROOT)));
    }

    function _signaturesOf(uint8 seats) private view returns (RoundRegistry.SumSignature[] memory signatures) {
        uint256 count;
        for (uint256 i; i < VALIDATORS; ++i) {
            count += seats >> i & 1;
        }
        signatures = new RoundRegistry.SumSignature[](count);
        for (uint256 i = VALIDATORS; i > 0; --i) {
            if (seats >> (i - 1) & 1 == 1) signatures[--count] = _sumSignature(i - 1, 1);
        }
    }

    function _nextEpoch() private {
        vm.warp(election.epochEnds());
        election.closeEpoch();
    }

    function _unauthorized(address account, bytes32 role) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, account, role);
    }
}
