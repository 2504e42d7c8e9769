// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Attestations} from "../src/Attestations.sol";
import {CandidateList} from "../src/CandidateList.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Election} from "../src/Election.sol";
import {RoundState} from "../src/RoundRegistry.sol";
import {Consortium} from "./Consortium.sol";
import {Rounds} from "./Rounds.sol";

contract ElectionTest is Rounds {
    function setUp() public {
        _found(3, 4);
    }

    function test_heaviestTakeTheSeatsInOrder() public {
        _seatFour();
        address[] memory elected = election.getValidators();
        assertEq(elected.length, 3);
        assert(elected[0] == _validator(3) && elected[1] == _validator(2) && elected[2] == _validator(1));
        assertEq(election.totalWeight(), 90 ether);
        (address[] memory seated, uint96[] memory weights) = election.seatsAt(1);
        for (uint256 i; i < 3; ++i) {
            assert(seated[i] == elected[i]);
            assertEq(weights[i], 40 ether - i * 10 ether);
            (uint256 weight, uint256 index) = election.voteAt(1, elected[i]);
            assertEq(weight, weights[i]);
            assertEq(index, i);
        }
        assertEq(election.seatCountAt(1), 3);
        assertEq(election.weightOf(_validator(3)), 40 ether);
        assertEq(election.weightOf(_validator(0)), 0);
    }

    function test_fullListTakesOnlyWhoOutweighsTheLast() public {
        _seatFour();
        _stake(4, 10 ether); // as much as the last: no
        assertEq(election.candidates().length, 4);
        _stake(4, 1 ether);
        address[] memory listed = election.candidates();
        assertEq(listed.length, 4);
        assert(listed[3] == _validator(4));
        vm.prank(_validator(3));
        election.retire();
        election.relist(_validator(0), address(0)); // room again
        assert(election.candidates()[3] == _validator(0));
    }

    function test_epochIsNotClosedBeforeItsEndNorWithTooFew() public {
        vm.expectRevert(abi.encodeWithSelector(Election.TooFewCandidates.selector, 0, 1));
        election.closeEpoch();
        _seatFour();
        uint64 ends = election.epochEnds();
        vm.warp(ends - 1);
        vm.expectRevert(abi.encodeWithSelector(Election.EpochRunning.selector, ends));
        election.closeEpoch();
        vm.warp(ends);
        election.closeEpoch();
        assertEq(election.epoch(), 2);
    }

    function test_onlyRegisteredValidatorsStandAndSuspendedOnesLoseVoteAndPlace() public {
        vm.expectRevert(abi.encodeWithSelector(Election.NotValidator.selector, address(this)));
        election.stake(1 ether, address(0));
        _seatFour();
        devices.suspend(_validator(3));
        assertEq(election.weightOf(_validator(3)), 0);
        vm.warp(election.epochEnds());
        election.closeEpoch();
        assert(election.getValidators()[0] == _validator(2));
        election.relist(_validator(3), address(0));
        assertEq(election.candidates().length, 3);
    }

    function test_tokensComeBackOnlyAfterTheDelay() public {
        _stake(0, 10 ether);
        election.delegate(_validator(0), 5 ether, address(0));
        (uint256 shares,) = election.delegationOf(_validator(0), address(this));
        uint256 id = election.undelegate(_validator(0), shares, address(0));
        (Election.Unbonding memory entry,) = election.unbonding(address(this), id);
        vm.warp(entry.releaseAt - 1);
        vm.expectRevert(abi.encodeWithSelector(Election.StillUnbonding.selector, entry.releaseAt));
        election.withdraw(id);
        vm.warp(entry.releaseAt);
        assertEq(election.withdraw(id), 5 ether);
        vm.expectRevert(abi.encodeWithSelector(Election.UnknownUnbonding.selector, address(this), id));
        election.withdraw(id);
    }

    /// An epoch that nobody closes: who has taken his tokens out votes with them no more.
    function test_voteWeighsNoMoreThanWhatCanBeSlashed() public {
        _seatFour();
        (uint256 shares,) = election.delegationOf(_validator(3), _validator(3));
        vm.prank(_validator(3));
        uint256 id = election.undelegate(_validator(3), shares, address(0));
        assertEq(election.weightOf(_validator(3)), 40 ether); // still within reach
        vm.warp(block.timestamp + UNBONDING_S);
        vm.prank(_validator(3));
        election.withdraw(id);
        assertEq(election.weightOf(_validator(3)), 0);
        assertEq(election.totalWeight(), 90 ether);
    }

    /// Whoever delegates after others (and after gifts to the pool) gets back what he gave, less dust.
    function testFuzz_delegatorGetsBackWhatHeGave(uint96 others, uint96 mine, uint96 gift) public {
        others = uint96(within(others, 1, 500 ether));
        mine = uint96(within(mine, 1 ether, 500 ether));
        _stake(0, others);
        if (others >= 1 ether) {
            election.closeEpoch();
            election.credit(_validator(0), 1);
            election.fund(within(gift, 1, 100 ether));
            vm.warp(election.epochEnds());
            election.closeEpoch();
        }
        election.delegate(_validator(0), mine, address(0));
        (uint256 shares, uint256 worth) = election.delegationOf(_validator(0), address(this));
        assert(worth <= mine && mine - worth <= 1000);
        uint256 id = election.undelegate(_validator(0), shares, address(0));
        vm.warp(block.timestamp + UNBONDING_S);
        uint256 back = election.withdraw(id);
        assert(back <= mine && mine - back <= 2000);
    }

    /// A slash takes its part from bonded and unbonding alike, and gives it to the pool.
    function testFuzz_slashReachesWhatIsUnbonding(uint96 bonded, uint96 leaving) public {
        bonded = uint96(within(bonded, 2 ether, 500 ether));
        leaving = uint96(within(leaving, 1 ether, 500 ether));
        _stake(0, bonded);
        election.delegate(_validator(0), leaving, address(0));
        (uint256 shares,) = election.delegationOf(_validator(0), address(this));
        uint256 id = election.undelegate(_validator(0), shares, address(0));
        _contradict(0, 1);
        (uint256 left, uint256 unbonding) = election.stakeOf(_validator(0));
        assertEq(election.rewardPool(), uint256(bonded) + leaving - left - unbonding);
        assert(left - bonded / 2 <= 1001 && unbonding - leaving / 2 <= 1001);
        vm.warp(block.timestamp + UNBONDING_S);
        assert(election.withdraw(id) <= leaving / 2 + 1);
    }

    function test_offenderIsExpelledForGoodAndSlashedOnceForARound() public {
        _seatFour();
        _contradict(3, 1);
        assert(election.isExpelled(_validator(3)));
        assertEq(election.weightOf(_validator(3)), 0);
        assertEq(election.candidates().length, 3);
        vm.prank(_validator(3));
        vm.expectRevert(abi.encodeWithSelector(Election.Expelled.selector, _validator(3)));
        election.stake(1 ether, address(0));
        bytes32 offence = keccak256(abi.encode(_validator(3), "model", TASK, uint64(1)));
        (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b) = _votes(1);
        (bytes memory first, bytes memory second) = (_signModel(_key(3), a), _signModel(_key(3), b));
        vm.expectRevert(abi.encodeWithSelector(Election.AlreadySlashed.selector, offence));
        election.slashContradictingVotes(a, first, b, second);
    }

    /// Votes of two rounds, or tasks, or one vote twice, contradict nothing.
    function testFuzz_nothingElseIsAContradiction(uint64 round, bytes32 task) public {
        (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b) = _votes(1);
        if (round == b.round && task == b.task) b = a;
        else (b.round, b.task) = (round, task);
        (bytes memory first, bytes memory second) = (_signModel(_key(0), a), _signModel(_key(0), b));
        vm.expectRevert(abi.encodeWithSelector(Election.NoContradiction.selector));
        election.slashContradictingVotes(a, first, b, second);
    }

    function test_contradictionOfTwoSignersIsNone() public {
        (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b) = _votes(1);
        (bytes memory first, bytes memory second) = (_signModel(_key(0), a), _signModel(_key(1), b));
        vm.expectRevert(abi.encodeWithSelector(Election.SignersDiffer.selector, _validator(0), _validator(1)));
        election.slashContradictingVotes(a, first, b, second);
    }

    /// A vote for another registry does not count as evidence: the signer that it names is somebody else.
    function test_signatureForAnotherRegistryProvesNothing() public {
        _seatFour();
        (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b) = _votes(1);
        bytes memory elsewhere = _signRaw(_key(3), Attestations.signedHash(b, keccak256("elsewhere")));
        bytes memory here = _signModel(_key(3), a);
        (bool taken,) =
            address(election).call(abi.encodeCall(election.slashContradictingVotes, (a, here, b, elsewhere)));
        assert(!taken && !election.isExpelled(_validator(3)));
    }

    function test_wrongSumIsSlashedOnceTheRightOneIsConfirmed() public {
        _seatFour();
        _aggregate();
        Attestations.SumAttestation memory wrong = Attestations.SumAttestation(TASK, 1, ROOT, ROOT, 3, 100);
        bytes memory proof = _signSum(_key(2), wrong);
        vm.expectRevert(abi.encodeWithSelector(Election.SumNotConfirmed.selector, TASK, 1, RoundState.Aggregated));
        election.slashWrongSum(wrong, proof);
        Attestations.SumAttestation memory right = _sum(1);
        rounds.attestSums(TASK, 1, _sumSignatures(1, 3));
        bytes memory honest = _signSum(_key(2), right);
        vm.expectRevert(abi.encodeWithSelector(Election.NoContradiction.selector));
        election.slashWrongSum(right, honest);
        election.slashWrongSum(wrong, proof);
        assert(election.isExpelled(_validator(2)));
        vm.expectRevert(
            abi.encodeWithSelector(
                Election.AlreadySlashed.selector, keccak256(abi.encode(_validator(2), "sum", TASK, uint64(1)))
            )
        );
        election.slashContradictingSums(right, honest, wrong, proof);
    }

    /// Points are paid by weight, never more than the pool or the epoch's share, and nothing without points.
    function testFuzz_rewardsFollowPoints(uint32 first, uint32 second, uint96 pool) public {
        _seatFour();
        election.credit(_validator(3), first);
        election.credit(_validator(2), second);
        uint256 funded = within(pool, 1, 100 ether);
        election.fund(funded);
        vm.warp(election.epochEnds());
        election.closeEpoch();
        (uint256 a,) = election.stakeOf(_validator(3));
        (uint256 b,) = election.stakeOf(_validator(2));
        (uint256 c,) = election.stakeOf(_validator(1));
        uint256 paid = a - 40 ether + b - 30 ether;
        assertEq(c, 20 ether);
        assertEq(election.rewardPool(), funded - paid);
        assert(paid <= REWARD);
        assert(first != 0 || a == 40 ether);
        if (first > 0 && second > 0 && funded > 1 ether) {
            uint256 fair = uint256(first) * 40 ether + uint256(second) * 30 ether;
            uint256 budget = funded < REWARD ? funded : REWARD;
            assertEq(a - 40 ether, budget * first * 40 ether / fair);
        }
    }

    function testFuzz_onlyTheScorerCreditsAndOnlyTheElected(address stranger) public {
        vm.assume(stranger != address(this));
        _seatFour();
        vm.expectRevert(abi.encodeWithSelector(Election.NotElected.selector, _validator(0)));
        election.credit(_validator(0), 1);
        bytes32 role = election.SCORER_ROLE();
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, role)
        );
        election.credit(_validator(3), 1);
    }

    function testFuzz_sharesOfOthersCannotBeTaken(uint256 shares) public {
        _stake(0, 10 ether);
        vm.assume(shares != 0);
        vm.expectRevert(abi.encodeWithSelector(Election.SharesMissing.selector, address(this), 0, shares));
        election.undelegate(_validator(0), shares, address(0));
    }

    // --- helpers --------------------------------------------------------------------------------

    /// Validators 0 to 3 with 10, 20, 30 and 40, three of them elected.
    function _seatFour() private {
        for (uint256 i; i < 4; ++i) {
            _stake(i, 10 ether * (i + 1));
        }
        election.closeEpoch();
    }

    function _stake(uint256 index, uint256 tokens) private {
        vm.prank(_validator(index));
        election.stake(tokens, address(0));
    }

    function _contradict(uint256 index, uint64 round) private {
        (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b) = _votes(round);
        election.slashContradictingVotes(a, _signModel(_key(index), a), b, _signModel(_key(index), b));
    }

    function _votes(uint64 round)
        private
        pure
        returns (Attestations.ModelAttestation memory a, Attestations.ModelAttestation memory b)
    {
        a = Attestations.ModelAttestation(TASK, round, 2, ROOT, DIGEST, 900_000, 800_000, true);
        b = Attestations.ModelAttestation(TASK, round, 2, ROOT, DIGEST, 900_000, 800_000, false);
    }

    /// Round 1 with the sum DIGEST proposed.
    function _aggregate() private {
        _createTask(QUORUM_PART);
        _founded();
        _openRound(1);
        _closeList(1);
        _proposeSum(1);
    }
}

contract CandidateListTest is Consortium {
    using CandidateList for CandidateList.List;

    CandidateList.List private list;

    /// Whatever the weights and the hints, the list is in order, complete, and the same both ways.
    function testFuzz_orderHoldsWhateverTheHint(uint96[16] memory weights, uint8[16] memory hints, uint8 gone) public {
        for (uint256 i; i < weights.length; ++i) {
            list.insert(address(uint160(i + 1)), weights[i] == 0 ? 1 : weights[i], address(uint160(hints[i] % 20)));
        }
        address left = address(uint160(gone % 16 + 1));
        list.remove(left);
        assert(!list.contains(left));
        uint256 seen;
        address before;
        for (address who = list.first(); who != address(0); who = list.next(who)) {
            if (before != address(0)) assert(list.weightOf(before) >= list.weightOf(who));
            assert(list.entries[who].heavier == before);
            before = who;
            ++seen;
        }
        assert(list.last() == before);
        assertEq(seen, 15);
        assertEq(list.size, 15);
    }
}
