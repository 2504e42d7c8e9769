// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Names of assets, and the twin topics that may be granted: gemel/v1/<site>/twin/<asset>/<leaf>.
/// @notice As in gemel/wire/topics.py. A scope names one asset of one site, without wildcards there, and of its topics
/// state, delta, schema, event, or `+` for all on that level; `desired/…` is deeper, so no scope ever reaches it.
library TwinScope {
    bytes private constant ROOT = "gemel/v1/";
    bytes private constant TWIN = "/twin/";
    uint256 private constant LONGEST_NAME = 64;

    error NameInvalid(string name);
    error ScopeInvalid(string scope);

    /// @notice The id of an asset: keccak of its twin's topic without the leaf.
    function assetId(string memory site, string memory asset) internal pure returns (bytes32) {
        if (!_isName(bytes(site))) revert NameInvalid(site);
        if (!_isName(bytes(asset))) revert NameInvalid(asset);
        return keccak256(bytes.concat(ROOT, bytes(site), TWIN, bytes(asset)));
    }

    /// @notice The id of the asset that a scope is about. Reverts if the scope is not of the one form that there is.
    function assetOf(string calldata scope) internal pure returns (bytes32) {
        bytes calldata text = bytes(scope);
        uint256 site = ROOT.length;
        uint256 siteEnd = _slash(text, site);
        uint256 asset = siteEnd + TWIN.length;
        uint256 assetEnd = _slash(text, asset);
        if (
            assetEnd >= text.length || !_equal(text[:site], ROOT) || !_equal(text[siteEnd:asset], TWIN)
                || !_isName(text[site:siteEnd]) || !_isName(text[asset:assetEnd]) || !_isLeaf(text[assetEnd + 1:])
        ) revert ScopeInvalid(scope);
        return keccak256(text[:assetEnd]);
    }

    /// @dev Where the next slash is from `start` on; the length where there is none.
    function _slash(bytes calldata text, uint256 start) private pure returns (uint256 position) {
        for (position = start; position < text.length && text[position] != "/"; ++position) {}
        if (position > text.length) position = text.length;
    }

    function _isLeaf(bytes calldata text) private pure returns (bool) {
        bytes32 digest = keccak256(text);
        return digest == keccak256("state") || digest == keccak256("delta") || digest == keccak256("schema")
            || digest == keccak256("event") || digest == keccak256("+");
    }

    function _isName(bytes memory text) private pure returns (bool) {
        if (text.length == 0 || text.length > LONGEST_NAME) return false;
        for (uint256 i; i < text.length; ++i) {
            bytes1 c = text[i];
            bool word = (c >= "a" && c <= "z") || (c >= "0" && c <= "9");
            if (!word && (i == 0 || (c != "." && c != "_" && c != "-"))) return false;
        }
        return true;
    }

    function _equal(bytes calldata left, bytes memory right) private pure returns (bool) {
        return keccak256(left) == keccak256(right);
    }
}
