// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {Administration} from "../src/Administration.sol";
import {Consortium} from "./Consortium.sol";

contract AdministrationTest is Consortium {
    uint256 private constant DELAY_S = 2 days;
    address private constant MEMBER = address(0xa1);
    address private constant OTHER = address(0xa2);
    address private constant NEWCOMER = address(0xa3);

    Administration private administration;

    function setUp() public {
        vm.warp(1_000_000);
        _found(3, 4);
        address[] memory members = new address[](2);
        (members[0], members[1]) = (MEMBER, OTHER);
        administration = new Administration(DELAY_S, members);
        devices.grantRole(0, address(administration));
        election.grantRole(0, address(administration));
        devices.renounceRole(0, address(this));
        election.renounceRole(0, address(this));
    }

    /// Whoever founded the network gives no roles any more, and keeps only the work of the operator.
    function testFuzz_nobodyElseGrantsRoles(address account, bytes32 role) public {
        vm.assume(account != address(administration));
        vm.prank(account);
        (bool taken,) = address(devices).call(abi.encodeCall(devices.grantRole, (role, account)));
        vm.prank(account);
        (bool elected,) = address(election).call(abi.encodeCall(election.grantRole, (role, account)));
        assert(!taken && !elected);
        assert(devices.hasRole(devices.OPERATOR_ROLE(), address(this)));
    }

    function testFuzz_grantWaitsForTheDelay(uint256 wait) public {
        wait = within(wait, 0, 2 * DELAY_S);
        _announce();
        vm.warp(block.timestamp + wait);
        (bool done,) = address(administration).call(_execution()); // by whomever
        assert(done == (wait >= DELAY_S));
        assert(devices.hasRole(keccak256("OPERATOR_ROLE"), NEWCOMER) == done);
    }

    function test_anotherMemberTakesItBack() public {
        bytes32 id = _announce();
        vm.prank(OTHER);
        administration.cancel(id);
        vm.warp(block.timestamp + DELAY_S);
        (bool done,) = address(administration).call(_execution());
        assert(!done && !devices.hasRole(keccak256("OPERATOR_ROLE"), NEWCOMER));
    }

    function testFuzz_onlyMembersAnnounce(address stranger) public {
        vm.assume(stranger != MEMBER && stranger != OTHER);
        bytes memory data = _call();
        bytes32 role = administration.PROPOSER_ROLE();
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, role)
        );
        administration.schedule(address(devices), 0, data, 0, 0, DELAY_S);
    }

    function testFuzz_shortDelayIsRefused(uint256 delay) public {
        delay = within(delay, 0, 1 hours - 1);
        address[] memory members = new address[](1);
        vm.expectRevert(abi.encodeWithSelector(Administration.DelayTooShort.selector, delay, 1 hours));
        new Administration(delay, members);
    }

    function _announce() private returns (bytes32) {
        vm.prank(MEMBER);
        administration.schedule(address(devices), 0, _call(), 0, 0, DELAY_S);
        return administration.hashOperation(address(devices), 0, _call(), 0, 0);
    }

    function _execution() private view returns (bytes memory) {
        return abi.encodeCall(administration.execute, (address(devices), 0, _call(), 0, 0));
    }

    function _call() private view returns (bytes memory) {
        return abi.encodeCall(devices.grantRole, (keccak256("OPERATOR_ROLE"), NEWCOMER));
    }
}
