// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {DeviceRegistry} from "./DeviceRegistry.sol";
import {TwinScope} from "./TwinScope.sol";

/// @title Whose machine each twin is.
/// @notice Without it anybody could grant away what is not his. The operator of the DeviceRegistry enters it; the owners
/// are those that devices are registered for.
contract AssetRegistry {
    DeviceRegistry public immutable devices;

    mapping(bytes32 asset => address) private _owners;

    event AssetAssigned(bytes32 indexed asset, address indexed owner, address previous, string site, string name);

    error ZeroAddress();

    constructor(DeviceRegistry devices_) {
        devices = devices_;
    }

    /// @notice Say whose an asset is, or that it is somebody else's now; what its former owner granted ends with that.
    function assign(string calldata site, string calldata name, address owner) external returns (bytes32 asset) {
        bytes32 operator = devices.OPERATOR_ROLE();
        if (!devices.hasRole(operator, msg.sender)) {
            revert IAccessControl.AccessControlUnauthorizedAccount(msg.sender, operator);
        }
        if (owner == address(0)) revert ZeroAddress();
        asset = TwinScope.assetId(site, name);
        address previous = _owners[asset];
        _owners[asset] = owner;
        emit AssetAssigned(asset, owner, previous, site, name);
    }

    /// @notice Zero for an asset that nobody assigned.
    function ownerOf(bytes32 asset) external view returns (address) {
        return _owners[asset];
    }

    function assetId(string calldata site, string calldata name) external pure returns (bytes32) {
        return TwinScope.assetId(site, name);
    }
}
