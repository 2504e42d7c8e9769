// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {DeviceRegistry, Role} from "../src/DeviceRegistry.sol";
import {Signed} from "../src/Signed.sol";
import {Consortium} from "./Consortium.sol";

contract DeviceRegistryTest is Consortium {
    uint256 private constant DEVICE = 201; // key
    address private constant OWNER = address(0xaa);
    bytes32 private constant BOX = keccak256("box");

    function setUp() public {
        devices = new DeviceRegistry(address(this));
    }

    function test_partyStandsAsItWasSigned() public {
        assertEq(uint8(devices.party(vm.addr(DEVICE)).role), uint8(Role.None));
        _register(DEVICE, OWNER, Role.Auditor);
        DeviceRegistry.Party memory party = devices.party(vm.addr(DEVICE));
        assert(party.account == vm.addr(DEVICE) && party.owner == OWNER && party.role == Role.Auditor && party.active);
        assert(devices.isActive(vm.addr(DEVICE), Role.Auditor) && !devices.isActive(vm.addr(DEVICE), Role.Agent));
        assertEq(devices.parties(0, 9).length, 1);
    }

    /// Nobody is registered under a key that is not his, nor otherwise than he signed.
    function testFuzz_proofIsByTheKeyAndForTheseValues(uint256 key, address owner, uint8 role, bytes32 box) public {
        key = within(key, 1, 1 << 200);
        role = uint8(within(role, 1, 6));
        vm.assume(owner != address(0));
        bool same = key == DEVICE && owner == OWNER && role == uint8(Role.Agent) && box == 0;
        bytes memory proof = _proof(DEVICE, OWNER, Role.Agent);
        (bool done,) = address(devices).call(
            abi.encodeCall(devices.register, (vm.addr(key), owner, Role(role), box, proof))
        );
        assert(done == same);
    }

    function test_wrongProofNamesWhoSigned() public {
        bytes memory proof = _proof(DEVICE, OWNER, Role.Agent);
        (bool done, bytes memory reason) = address(devices).call(
            abi.encodeCall(devices.register, (vm.addr(DEVICE), OWNER, Role.Agent, 0, hex"00"))
        );
        assert(!done);
        assert(
            keccak256(reason)
                == keccak256(abi.encodeWithSelector(Signed.BadSignature.selector, vm.addr(DEVICE), address(0)))
        );
        // a proof for one registry is none for another
        DeviceRegistry another = new DeviceRegistry(address(this));
        (done,) =
            address(another).call(abi.encodeCall(devices.register, (vm.addr(DEVICE), OWNER, Role.Agent, 0, proof)));
        assert(!done);
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
    }

    /// A proof shows the key and gives no right: it is the operator who enters.
    function testFuzz_onlyTheOperatorRegistersAndSuspends(address stranger) public {
        vm.assume(stranger != address(this));
        bytes32 operator = devices.OPERATOR_ROLE();
        bytes memory proof = _proof(DEVICE, OWNER, Role.Agent);
        bytes memory refusal =
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, operator);
        vm.prank(stranger);
        vm.expectRevert(refusal);
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
        vm.prank(stranger);
        vm.expectRevert(refusal);
        devices.suspend(vm.addr(DEVICE));
    }

    function test_registeredOnceAndSuspendedForGood() public {
        bytes memory proof = _proof(DEVICE, OWNER, Role.Agent);
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.AlreadyRegistered.selector, vm.addr(DEVICE)));
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
        devices.suspend(vm.addr(DEVICE));
        assert(!devices.isActive(vm.addr(DEVICE), Role.Agent));
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.NotActive.selector, vm.addr(DEVICE)));
        devices.suspend(vm.addr(DEVICE));
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.AlreadyRegistered.selector, vm.addr(DEVICE)));
        devices.register(vm.addr(DEVICE), OWNER, Role.Agent, 0, proof);
    }

    function test_incompletePartiesAreRefused() public {
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.ZeroAddress.selector));
        devices.register(address(0), OWNER, Role.Agent, 0, "");
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.ZeroAddress.selector));
        devices.register(OWNER, address(0), Role.Agent, 0, "");
        vm.expectRevert(abi.encodeWithSelector(DeviceRegistry.RoleMissing.selector, OWNER));
        devices.register(OWNER, OWNER, Role.None, BOX, "");
    }
}
