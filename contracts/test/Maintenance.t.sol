// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {AssetRegistry} from "../src/AssetRegistry.sol";
import {Role} from "../src/DeviceRegistry.sol";
import {Maintenance, OrderState} from "../src/Maintenance.sol";
import {Signed} from "../src/Signed.sol";
import {Consortium} from "./Consortium.sol";

contract MaintenanceTest is Consortium {
    uint256 private constant AGENT = 201; // keys
    uint256 private constant TECHNICIAN = 202;
    uint256 private constant INSPECTOR = 203;
    address private constant OWNER = address(0xaa);
    bytes32 private constant ALERT = keccak256("occurrence");
    bytes32 private constant REPORT = keccak256("report");
    uint64 private constant NOW_S = 1_000_000;

    Maintenance private maintenance;
    AssetRegistry private assets;
    bytes32 private asset;
    bytes32 private id;

    function setUp() public {
        vm.warp(NOW_S);
        _found(3, 4);
        assets = new AssetRegistry(devices);
        maintenance = new Maintenance(devices, assets, address(this));
        maintenance.grantRole(maintenance.TECHNICIAN_ROLE(), vm.addr(TECHNICIAN));
        maintenance.grantRole(maintenance.INSPECTOR_ROLE(), vm.addr(INSPECTOR));
        asset = assets.assign("plant", "press", OWNER);
        _register(AGENT, OWNER, Role.Agent);
        id = maintenance.orderId(asset, ALERT);
    }

    function test_orderGoesFromAlertToVerified() public {
        _open(NOW_S - 40);
        _step(OrderState.Acknowledged, TECHNICIAN, NOW_S - 30);
        _step(OrderState.Done, TECHNICIAN, NOW_S - 20);
        _step(OrderState.Verified, INSPECTOR, NOW_S);
        Maintenance.Order memory order = maintenance.order(id);
        assert(order.state == OrderState.Verified && order.asset == asset && order.alert == ALERT);
        assert(order.opened.by == vm.addr(AGENT) && order.opened.time == NOW_S - 40);
        assert(order.acknowledged.by == vm.addr(TECHNICIAN) && order.acknowledged.time == NOW_S - 30);
        assert(order.done.time == NOW_S - 20 && order.done.report == REPORT);
        assert(order.verified.by == vm.addr(INSPECTOR) && order.verified.time == NOW_S);
    }

    /// Whatever is called by whomever in whatever order: only the next state, only with its role, times never back.
    function testFuzz_statesOnlyGoForward(uint8[16] memory calls, uint64[16] memory times) public {
        OrderState before;
        uint64 last;
        for (uint256 i; i < calls.length; ++i) {
            uint64 time = NOW_S - 100 + uint64(i) * 6 + times[i] % 12; // onwards, now and then back or in the future
            uint256 call = calls[i] % 4;
            uint256 key = [AGENT, TECHNICIAN, TECHNICIAN, INSPECTOR][calls[i] % 3 == 0 ? (call + 1) % 4 : call];
            bool done = _try(call, key, time);
            OrderState later = maintenance.order(id).state;
            bool right = uint8(before) == call && time >= last && time <= NOW_S
                && (call == 0 ? key == AGENT : call == 3 ? key == INSPECTOR : key == TECHNICIAN);
            assert(done == right && uint8(later) == uint8(before) + (done ? 1 : 0));
            if (done) last = time;
            before = later;
        }
    }

    function test_sameOccurrenceOpensOneOrder() public {
        _open(NOW_S);
        bytes memory signature = _signFor(maintenance, AGENT, _alert(NOW_S));
        vm.expectRevert(abi.encodeWithSelector(Maintenance.OrderExists.selector, id));
        maintenance.open(asset, ALERT, NOW_S, REPORT, vm.addr(AGENT), signature);
    }

    function test_nobodyVerifiesHisOwnWork() public {
        maintenance.grantRole(maintenance.INSPECTOR_ROLE(), vm.addr(TECHNICIAN));
        _open(NOW_S);
        _step(OrderState.Acknowledged, TECHNICIAN, NOW_S);
        _step(OrderState.Done, TECHNICIAN, NOW_S);
        bytes memory signature = _signFor(maintenance, TECHNICIAN, _stepHash(OrderState.Verified, NOW_S));
        vm.expectRevert(abi.encodeWithSelector(Maintenance.OwnWorkVerified.selector, vm.addr(TECHNICIAN)));
        maintenance.verify(id, Maintenance.Step(vm.addr(TECHNICIAN), NOW_S, REPORT), signature);
        _step(OrderState.Verified, INSPECTOR, NOW_S);
    }

    function test_onlyAnActiveAgentOfTheOwnerOpens() public {
        assets.assign("plant", "press", address(0xbb));
        _refusedToOpen();
        assets.assign("plant", "press", OWNER);
        devices.suspend(vm.addr(AGENT));
        _refusedToOpen();
    }

    function testFuzz_whoeverLacksTheRoleDoesNothing(uint256 key, uint8 step) public {
        key = within(key, 1, 1 << 200);
        vm.assume(key != TECHNICIAN && key != INSPECTOR);
        _open(NOW_S);
        bytes memory signature = _signFor(maintenance, key, _stepHash(OrderState.Acknowledged, NOW_S));
        bytes32 role = maintenance.TECHNICIAN_ROLE();
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, vm.addr(key), role)
        );
        maintenance.acknowledge(id, Maintenance.Step(vm.addr(key), NOW_S, REPORT), signature);
        if (step % 2 == 0) return;
        // in the technician's name
        vm.expectRevert(abi.encodeWithSelector(Signed.BadSignature.selector, vm.addr(TECHNICIAN), vm.addr(key)));
        maintenance.acknowledge(id, Maintenance.Step(vm.addr(TECHNICIAN), NOW_S, REPORT), signature);
    }

    // --- helpers --------------------------------------------------------------------------------

    function _refusedToOpen() private {
        bytes memory signature = _signFor(maintenance, AGENT, _alert(NOW_S));
        vm.expectRevert(abi.encodeWithSelector(Maintenance.NotAgentOfOwner.selector, asset, vm.addr(AGENT)));
        maintenance.open(asset, ALERT, NOW_S, REPORT, vm.addr(AGENT), signature);
    }

    function _open(uint64 time) private {
        assert(_try(0, AGENT, time));
    }

    function _step(OrderState state, uint256 key, uint64 time) private {
        assert(_try(uint256(state) - 1, key, time));
    }

    function _try(uint256 call, uint256 key, uint64 time) private returns (bool done) {
        bytes memory data;
        if (call == 0) {
            bytes memory alert = _signFor(maintenance, key, _alert(time));
            data = abi.encodeCall(maintenance.open, (asset, ALERT, time, REPORT, vm.addr(key), alert));
        } else {
            Maintenance.Step memory step = Maintenance.Step(vm.addr(key), time, REPORT);
            bytes memory signature = _signFor(maintenance, key, _stepHash(OrderState(call + 1), time));
            if (call == 1) data = abi.encodeCall(maintenance.acknowledge, (id, step, signature));
            else if (call == 2) data = abi.encodeCall(maintenance.complete, (id, step, signature));
            else data = abi.encodeCall(maintenance.verify, (id, step, signature));
        }
        (done,) = address(maintenance).call(data);
    }

    function _alert(uint64 time) private view returns (bytes32) {
        bytes32 kind = keccak256("HealthAlert(bytes32 asset,bytes32 alert,uint64 time,bytes32 report)");
        return keccak256(abi.encode(kind, asset, ALERT, time, REPORT));
    }

    function _stepHash(OrderState state, uint64 time) private view returns (bytes32) {
        bytes32 kind = keccak256("MaintenanceStep(bytes32 order,uint8 state,uint64 time,bytes32 report)");
        return keccak256(abi.encode(kind, id, state, time, REPORT));
    }
}
