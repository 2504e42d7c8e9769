// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Attestations} from "../src/Attestations.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Election} from "../src/Election.sol";
import {Consortium} from "./Consortium.sol";

/// @notice Does at random what members may do: every call is one that must succeed.
contract ElectionHandler is Consortium {
    uint16 public constant SEATS = 3;
    uint16 public constant CAPACITY = 4;

    mapping(address delegator => uint256) private _next; // ids below it are withdrawn

    constructor() {
        _found(SEATS, CAPACITY);
        _seatAll();
    }

    function network() external view returns (Election) {
        return election;
    }

    function validatorAt(uint256 index) external pure returns (address) {
        return _validator(index);
    }

    function stake(uint8 who, uint96 tokens, uint8 hint) external {
        address validator = _validator(who % VALIDATORS);
        uint256 most = token.balanceOf(validator);
        if (most < 2000 || election.isExpelled(validator)) return;
        vm.prank(validator);
        election.stake(within(tokens, 2000, most), _hint(hint));
    }

    function delegate(uint8 from, uint8 to, uint96 tokens, uint8 hint) external {
        address delegator = _validator(from % VALIDATORS);
        uint256 most = token.balanceOf(delegator);
        // expelled and retired ones take no more; relisting needs `stake`
        if (most < 2000 || !_stands(_validator(to % VALIDATORS))) return;
        vm.prank(delegator);
        election.delegate(_validator(to % VALIDATORS), within(tokens, 2000, most), _hint(hint));
    }

    function undelegate(uint8 from, uint8 to, uint256 shares, uint8 hint) external {
        address delegator = _validator(from % VALIDATORS);
        address validator = _validator(to % VALIDATORS);
        (uint256 held, uint256 worth) = election.delegationOf(validator, delegator);
        if (worth < 1e6) return;
        vm.prank(delegator);
        election.undelegate(validator, within(shares, held / 2, held), _hint(hint));
    }

    function withdraw(uint8 from) external {
        address delegator = _validator(from % VALIDATORS);
        (Election.Unbonding memory entry,) = election.unbonding(delegator, _next[delegator]);
        if (entry.shares == 0) return;
        if (block.timestamp < entry.releaseAt) vm.warp(entry.releaseAt);
        vm.prank(delegator);
        election.withdraw(_next[delegator]++);
    }

    function retire(uint8 who) external {
        if (who > 25) return; // seldom, or nobody is left
        address validator = _validator(who % VALIDATORS);
        if (!_stands(validator)) return;
        vm.prank(validator);
        election.retire();
    }

    function relist(uint8 who, uint8 hint) external {
        election.relist(_validator(who % VALIDATORS), _hint(hint));
    }

    function closeEpoch() external {
        if (election.candidates().length == 0) return;
        vm.warp(election.epochEnds() > block.timestamp ? election.epochEnds() : block.timestamp);
        election.closeEpoch();
    }

    function credit(uint8 who, uint32 points) external {
        address[] memory elected = election.getValidators();
        election.credit(elected[who % elected.length], points);
    }

    function fund(uint96 tokens) external {
        uint256 most = token.balanceOf(address(this));
        if (most != 0) election.fund(within(tokens, 1, most));
    }

    function slash(uint8 who, uint64 round) external {
        if (who > 25) return;
        uint256 key = _key(who % VALIDATORS);
        Attestations.SumAttestation memory a = Attestations.SumAttestation("task", round, "root", "sum", 3, 9);
        Attestations.SumAttestation memory b = Attestations.SumAttestation("task", round, "root", "lie", 3, 9);
        bytes32 domain = rounds.domainSeparator();
        bytes memory first = _signRaw(key, Attestations.signedHash(a, domain));
        bytes memory second = _signRaw(key, Attestations.signedHash(b, domain));
        if (election.isExpelled(vm.addr(key))) return;
        election.slashContradictingSums(a, first, b, second);
    }

    function _stands(address validator) private view returns (bool) {
        address[] memory listed = election.candidates();
        for (uint256 i; i < listed.length; ++i) {
            if (listed[i] == validator) return true;
        }
        return false;
    }

    function _hint(uint8 which) private pure returns (address) {
        return which % 7 == 6 ? address(0xdead) : which % 7 == 5 ? address(0) : _validator(which % 7);
    }
}

contract ElectionInvariants is Consortium {
    ElectionHandler private handler;
    Election private network;

    function setUp() public {
        handler = new ElectionHandler();
        network = handler.network();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    /// Tokens are what is bonded, what is unbonding and the pool; none is made or lost.
    function invariant_stakeIsConserved() external view {
        uint256 sum = network.rewardPool();
        for (uint256 i; i < VALIDATORS; ++i) {
            (uint256 bonded, uint256 unbonding) = network.stakeOf(handler.validatorAt(i));
            sum += bonded + unbonding;
        }
        assertEq(network.token().balanceOf(address(network)), sum);
        assertEq(network.token().totalSupply(), EACH * (VALIDATORS + 1));
    }

    /// What all delegators could take out of a validator's pool is never more than what is in it.
    function invariant_sharesAreCovered() external view {
        for (uint256 i; i < VALIDATORS; ++i) {
            address validator = handler.validatorAt(i);
            uint256 claims;
            for (uint256 j; j < VALIDATORS; ++j) {
                (, uint256 worth) = network.delegationOf(validator, handler.validatorAt(j));
                claims += worth;
            }
            (uint256 bonded,) = network.stakeOf(validator);
            assert(claims <= bonded);
        }
    }

    function invariant_candidatesAreSortedBoundedAndEligible() external view {
        address[] memory listed = network.candidates();
        assert(listed.length <= handler.CAPACITY());
        uint256 above = type(uint256).max;
        for (uint256 i; i < listed.length; ++i) {
            (uint256 bonded,) = network.stakeOf(listed[i]);
            assert(bonded <= above && bonded >= 1 ether && !network.isExpelled(listed[i]));
            assert(network.devices().isActive(listed[i], Role.Validator));
            above = bonded;
        }
    }

    function invariant_electedAreSortedAndNeverMoreThanTheSeats() external view {
        address[] memory elected = network.getValidators();
        assert(elected.length >= 1 && elected.length <= handler.SEATS());
        uint256 above = type(uint256).max;
        uint256 sum;
        for (uint256 i; i < elected.length; ++i) {
            Election.Seat memory seat = network.seatAt(network.epoch(), elected[i]);
            assert(seat.weight <= above && network.weightOf(elected[i]) <= seat.weight);
            (above, sum) = (seat.weight, sum + seat.weight);
        }
        assertEq(network.totalWeight(), sum);
    }
}
