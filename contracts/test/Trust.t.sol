// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Role} from "../src/DeviceRegistry.sol";
import {QuorumSigned} from "../src/QuorumSigned.sol";
import {Trust} from "../src/Trust.sol";
import {Consortium} from "./Consortium.sol";

contract TrustTest is Consortium {
    bytes32 private constant TASK = keccak256("hydraulic");
    uint32 private constant PPM = 1_000_000;
    uint32 private constant INITIAL = 600_000;
    uint32 private constant FLOOR = 300_000;
    uint64 private constant HALF_LIFE_S = 30 days;
    uint256 private constant DEVICE_KEY = 201;
    uint256 private constant OTHER_KEY = 202;
    address private immutable DEVICE = vm.addr(DEVICE_KEY);
    address private immutable OTHER = vm.addr(OTHER_KEY);
    address private constant OWNER = address(0xaa);

    Trust private trust;

    function setUp() public {
        _found(5, 5);
        _seatAll(); // 100, 90, 80, 70, 60: 400 in all
        trust = new Trust(devices, election, token, 666_667, Trust.Terms(INITIAL, FLOOR, 200_000, HALF_LIFE_S, REWARD));
        _register(DEVICE_KEY, OWNER, Role.Agent);
        _register(OTHER_KEY, OWNER, Role.Agent);
        token.approve(address(trust), type(uint256).max);
        trust.fund(100 ether);
    }

    function test_unknownDeviceHasTheInitialScore() public view {
        assertEq(trust.scoreOf(DEVICE), INITIAL);
        assert(!trust.isSuspended(DEVICE));
    }

    function test_scoresOfManyAreThoseOfEach() public {
        _report(1, _one(DEVICE, PPM, 0));
        address[] memory asked = new address[](3);
        (asked[0], asked[1], asked[2]) = (OTHER, DEVICE, address(0xbad));
        uint32[] memory scores = trust.scoresOf(asked);
        for (uint256 i; i < 3; ++i) {
            assertEq(scores[i], trust.scoreOf(asked[i]));
        }
        assert(scores[1] > INITIAL && scores[0] == INITIAL);
        assertEq(trust.scoresOf(new address[](0)).length, 0);
    }

    /// A score stays between what it was and the outcome, whatever comes in.
    function testFuzz_scoreMovesTowardsTheOutcome(uint32[4] memory outcomes) public {
        for (uint64 i; i < outcomes.length; ++i) {
            uint32 outcome = outcomes[i] % (PPM + 1);
            uint32 before = trust.scoreOf(DEVICE);
            _report(i, _one(DEVICE, outcome, 0));
            uint32 later = trust.scoreOf(DEVICE);
            if (outcome >= before) assert(later + 1 >= before && later <= outcome + 1);
            else assert(later <= before && later >= outcome);
            assert(trust.isSuspended(DEVICE) == (later < FLOOR));
        }
    }

    /// Without results a score only ever comes closer to where it began, and a half-life halves the distance.
    function testFuzz_scoreDecaysTowardsTheInitialOne(bool good, uint64 first, uint64 second) public {
        first = uint64(within(first, 0, 10 * HALF_LIFE_S));
        second = uint64(within(second, first, 20 * HALF_LIFE_S));
        for (uint64 i; i < 4; ++i) {
            _report(i, _one(DEVICE, good ? PPM : 0, 0));
        }
        uint256 start = block.timestamp;
        uint256 distance = _distance();
        assert(good || trust.isSuspended(DEVICE));
        vm.warp(start + first);
        uint256 early = _distance();
        vm.warp(start + second);
        uint256 late = _distance();
        assert(early <= distance && late <= early);
        vm.warp(start + HALF_LIFE_S);
        assertEq(_distance(), distance / 2);
        vm.warp(start + 300 * HALF_LIFE_S);
        assertEq(_distance(), 0);
        assert(!trust.isSuspended(DEVICE));
    }

    function test_sameRoundCountsOnceForADevice() public {
        _report(1, _one(DEVICE, PPM, 0));
        Trust.Result[] memory results = _one(DEVICE, 0, 0);
        bytes[] memory signatures = _sign(1, results, 3);
        vm.expectRevert(abi.encodeWithSelector(Trust.AlreadyReported.selector, TASK, 1, DEVICE));
        trust.report(TASK, 1, results, signatures);
    }

    /// Two thirds of 400 are 266.67: the first three are 270, any two are less.
    function test_quorumIsOfStakeNotOfHeads() public {
        Trust.Result[] memory results = _one(DEVICE, PPM, 0);
        bytes[] memory two = _signBy(1, results, 0, 1);
        vm.expectRevert(
            abi.encodeWithSelector(QuorumSigned.QuorumMissing.selector, 190 ether, trust.quorumWeight())
        );
        trust.report(TASK, 1, results, two);
        bytes[] memory none = new bytes[](0);
        vm.expectRevert(abi.encodeWithSelector(QuorumSigned.QuorumMissing.selector, 0, trust.quorumWeight()));
        trust.report(TASK, 1, results, none);
    }

    function test_oneSignerCountsOnce() public {
        Trust.Result[] memory results = _one(DEVICE, PPM, 0);
        bytes[] memory twice = _signBy(1, results, 0, 0);
        vm.expectRevert(
            abi.encodeWithSelector(QuorumSigned.SignersUnordered.selector, _validator(0), _validator(0))
        );
        trust.report(TASK, 1, results, twice);
    }

    /// Signatures for other results, another round or another task are no quorum for these.
    function testFuzz_onlyWhatWasSignedIsEntered(bytes32 task, uint64 round, uint32 outcome) public {
        outcome %= PPM + 1;
        vm.assume(task != TASK || round != 1 || outcome != PPM);
        bytes[] memory signatures = _sign(1, _one(DEVICE, PPM, 0), 3);
        (bool taken,) =
            address(trust).call(abi.encodeCall(trust.report, (task, round, _one(DEVICE, outcome, 0), signatures)));
        assert(!taken);
    }

    /// What a round pays is bounded by its reward, and what is owed is always there.
    function testFuzz_rewardsAreBoundedAndCovered(uint32 first, uint32 second) public {
        Trust.Result[] memory results = new Trust.Result[](2);
        results[0] = Trust.Result(DEVICE, PPM, first);
        results[1] = Trust.Result(OTHER, PPM, second);
        bytes[] memory signatures = _sign(1, results, 3);
        (bool taken,) = address(trust).call(abi.encodeCall(trust.report, (TASK, 1, results, signatures)));
        assert(taken == (uint256(first) + second <= PPM));
        uint256 owed = trust.claimOf(OWNER);
        assert(owed <= REWARD && (!taken || owed + 2 > uint256(REWARD) * (uint256(first) + second) / PPM));
        assertEq(token.balanceOf(address(trust)), trust.rewardPool() + owed);
        if (owed == 0) return;
        assertEq(trust.claim(OWNER), owed);
        assertEq(token.balanceOf(OWNER), owed);
        vm.expectRevert(abi.encodeWithSelector(Trust.NothingToClaim.selector, OWNER));
        trust.claim(OWNER);
    }

    function test_secondReportOfARoundCannotOverspendIt() public {
        _report(1, _one(DEVICE, PPM, 600_000));
        Trust.Result[] memory results = _one(OTHER, PPM, 400_001);
        bytes[] memory signatures = _sign(1, results, 3);
        vm.expectRevert(abi.encodeWithSelector(Trust.RoundOverspent.selector, TASK, 1, 1_000_001));
        trust.report(TASK, 1, results, signatures);
    }

    function test_emptyPoolPaysWhatIsLeftAndHoldsNoReportUp() public {
        for (uint64 i; i < 12; ++i) {
            _report(i, _one(DEVICE, PPM, PPM));
        }
        assertEq(trust.claimOf(OWNER), 100 ether);
        assertEq(trust.rewardPool(), 0);
    }

    function test_onlyRegisteredAgentsHaveAScore() public {
        Trust.Result[] memory results = _one(address(0xbad), PPM, 0);
        bytes[] memory signatures = _sign(1, results, 3);
        vm.expectRevert(abi.encodeWithSelector(Trust.NotAgent.selector, address(0xbad)));
        trust.report(TASK, 1, results, signatures);
    }

    // --- helpers --------------------------------------------------------------------------------

    function _distance() private view returns (uint256) {
        uint256 score = trust.scoreOf(DEVICE);
        return score > INITIAL ? score - INITIAL : INITIAL - score;
    }

    function _one(address device, uint32 outcome, uint32 share) private pure returns (Trust.Result[] memory results) {
        results = new Trust.Result[](1);
        results[0] = Trust.Result(device, outcome, share);
    }

    function _report(uint64 round, Trust.Result[] memory results) private {
        trust.report(TASK, round, results, _sign(round, results, 3));
    }

    function _structHash(uint64 round, Trust.Result[] memory results) private pure returns (bytes32) {
        bytes32 kind = keccak256("TrustReport(bytes32 task,uint64 round,bytes32 results)");
        return keccak256(abi.encode(kind, TASK, round, keccak256(abi.encode(results))));
    }

    function _sign(uint64 round, Trust.Result[] memory results, uint256 count) private view returns (bytes[] memory) {
        return _signatures(trust, _structHash(round, results), count);
    }

    function _signBy(uint64 round, Trust.Result[] memory results, uint256 one, uint256 another)
        private
        view
        returns (bytes[] memory signatures)
    {
        if (_validator(one) > _validator(another)) (one, another) = (another, one);
        signatures = new bytes[](2);
        signatures[0] = _signFor(trust, _key(one), _structHash(round, results));
        signatures[1] = _signFor(trust, _key(another), _structHash(round, results));
    }
}
