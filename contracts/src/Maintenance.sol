// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {AssetRegistry} from "./AssetRegistry.sol";
import {DeviceRegistry, Role} from "./DeviceRegistry.sol";
import {Signed} from "./Signed.sol";

/// @notice How far a maintenance order is; it only ever goes on to the next word.
enum OrderState {
    None,
    Open,
    Acknowledged,
    Done,
    Verified
}

/// @title Maintenance orders, from a twin's health alert to the verified work.
/// @notice An agent of the asset's owner signs the alert, a technician that he has seen it and what he did, an inspector,
/// who is another person, that it is good. Anybody hands the signatures in. Times are those that the signers state:
/// never before the step before, never after the block; the event's block says when the chain learnt of it.
contract Maintenance is AccessControl, Signed {
    /// @notice One step of an order: who signed it, when, and the digest of what he wrote.
    struct Step {
        address by;
        uint64 time; // seconds
        bytes32 report;
    }

    struct Order {
        OrderState state;
        bytes32 asset; // as in the AssetRegistry
        bytes32 alert; // keccak of the occurrence's id
        Step opened; // its report is the digest of the alert's event
        Step acknowledged;
        Step done;
        Step verified;
    }

    /// @notice Who may acknowledge an order and say that it is done.
    bytes32 public constant TECHNICIAN_ROLE = keccak256("TECHNICIAN_ROLE");
    /// @notice Who may verify what another did.
    bytes32 public constant INSPECTOR_ROLE = keccak256("INSPECTOR_ROLE");

    bytes32 private constant ALERT_TYPE =
        keccak256("HealthAlert(bytes32 asset,bytes32 alert,uint64 time,bytes32 report)");
    bytes32 private constant STEP_TYPE =
        keccak256("MaintenanceStep(bytes32 order,uint8 state,uint64 time,bytes32 report)");

    DeviceRegistry public immutable devices;
    AssetRegistry public immutable assets;

    mapping(bytes32 id => Order) private _orders;

    event OrderOpened(
        bytes32 indexed id, bytes32 indexed asset, bytes32 indexed alert, address by, uint64 time, bytes32 report
    );
    event OrderAdvanced(bytes32 indexed id, OrderState indexed state, address indexed by, uint64 time, bytes32 report);

    error OrderExists(bytes32 id);
    error NotAgentOfOwner(bytes32 asset, address agent);
    error WrongState(bytes32 id, OrderState state, OrderState wanted);
    error TimeOutOfOrder(uint64 time, uint64 earliest, uint64 latest);
    error OwnWorkVerified(address inspector);

    /// @param admin names technicians and inspectors; a timelock
    constructor(DeviceRegistry devices_, AssetRegistry assets_, address admin) {
        (devices, assets) = (devices_, assets_);
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    /// @notice Open the order of an alert; each occurrence opens one.
    /// @param agent an active agent of the asset's owner, who signed `HealthAlert`
    function open(
        bytes32 asset,
        bytes32 alert,
        uint64 time,
        bytes32 report,
        address agent,
        bytes calldata signature
    ) external returns (bytes32 id) {
        id = orderId(asset, alert);
        Order storage entry = _orders[id];
        if (entry.state != OrderState.None) revert OrderExists(id);
        if (!devices.isActive(agent, Role.Agent) || devices.party(agent).owner != assets.ownerOf(asset)) {
            revert NotAgentOfOwner(asset, agent);
        }
        _requireTime(time, 0);
        _requireSigned(agent, keccak256(abi.encode(ALERT_TYPE, asset, alert, time, report)), signature);
        (entry.state, entry.asset, entry.alert) = (OrderState.Open, asset, alert);
        entry.opened = Step(agent, time, report);
        emit OrderOpened(id, asset, alert, agent, time, report);
    }

    /// @notice A technician has seen the order.
    function acknowledge(bytes32 id, Step calldata step, bytes calldata signature) external {
        Order storage entry = _advance(id, OrderState.Acknowledged, TECHNICIAN_ROLE, step, signature);
        _requireTime(step.time, entry.opened.time);
        entry.acknowledged = step;
    }

    /// @notice A technician did the work; not necessarily he who acknowledged it.
    function complete(bytes32 id, Step calldata step, bytes calldata signature) external {
        Order storage entry = _advance(id, OrderState.Done, TECHNICIAN_ROLE, step, signature);
        _requireTime(step.time, entry.acknowledged.time);
        entry.done = step;
    }

    /// @notice An inspector found it good. Work that is not good is left at `Done`; the twin's next alert opens another.
    function verify(bytes32 id, Step calldata step, bytes calldata signature) external {
        Order storage entry = _advance(id, OrderState.Verified, INSPECTOR_ROLE, step, signature);
        if (step.by == entry.done.by) revert OwnWorkVerified(step.by);
        _requireTime(step.time, entry.done.time);
        entry.verified = step;
    }

    /// @notice One order; its state is `None` if there is none.
    function order(bytes32 id) external view returns (Order memory) {
        return _orders[id];
    }

    function orderId(bytes32 asset, bytes32 alert) public pure returns (bytes32) {
        return keccak256(abi.encode(asset, alert));
    }

    function _advance(bytes32 id, OrderState state, bytes32 role, Step calldata step, bytes calldata signature)
        private
        returns (Order storage entry)
    {
        entry = _orders[id];
        if (uint8(entry.state) + 1 != uint8(state) || entry.state == OrderState.None) {
            revert WrongState(id, entry.state, state);
        }
        _checkRole(role, step.by);
        _requireSigned(step.by, keccak256(abi.encode(STEP_TYPE, id, state, step.time, step.report)), signature);
        entry.state = state;
        emit OrderAdvanced(id, state, step.by, step.time, step.report);
    }

    function _requireTime(uint64 time, uint64 earliest) private view {
        // slither-disable-next-line timestamp  a block producer shifts seconds
        if (time < earliest || time > block.timestamp) {
            revert TimeOutOfOrder(time, earliest, uint64(block.timestamp));
        }
    }
}
