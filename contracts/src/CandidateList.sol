// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Who stands for election, heaviest first.
/// @notice A doubly linked list around a sentinel (address zero). A caller who knows after whom a candidate belongs says
/// so (the hint), and inserting touches three entries; a wrong hint costs a walk and never a wrong order. The inheriting
/// contract bounds the size, and with it the walk.
library CandidateList {
    struct Entry {
        address heavier; // whoever comes before; the sentinel at the top
        uint96 weight; // above zero for whoever is listed
        address lighter;
    }

    struct List {
        mapping(address => Entry) entries;
        uint256 size;
    }

    function contains(List storage list, address who) internal view returns (bool) {
        return list.entries[who].weight != 0;
    }

    function weightOf(List storage list, address who) internal view returns (uint96) {
        return list.entries[who].weight;
    }

    /// @notice The heaviest; zero if the list is empty.
    function first(List storage list) internal view returns (address) {
        return list.entries[address(0)].lighter;
    }

    /// @notice The lightest; zero if the list is empty.
    function last(List storage list) internal view returns (address) {
        return list.entries[address(0)].heavier;
    }

    /// @notice Whoever comes after `who`; zero at the end.
    function next(List storage list, address who) internal view returns (address) {
        return list.entries[who].lighter;
    }

    /// @notice Put `who`, who is not listed, behind all that weigh as much or more.
    /// @param hint whoever `who` should come after; anything else is corrected by walking
    function insert(List storage list, address who, uint96 weight, address hint) internal {
        address place = contains(list, hint) ? hint : address(0);
        while (place != address(0) && list.entries[place].weight < weight) place = list.entries[place].heavier;
        address follower = list.entries[place].lighter;
        while (follower != address(0) && list.entries[follower].weight >= weight) {
            place = follower;
            follower = list.entries[place].lighter;
        }
        list.entries[who] = Entry(place, weight, follower);
        list.entries[place].lighter = who;
        list.entries[follower].heavier = who;
        ++list.size;
    }

    /// @notice Take `who`, who is listed, out.
    function remove(List storage list, address who) internal {
        Entry memory entry = list.entries[who];
        list.entries[entry.heavier].lighter = entry.lighter;
        list.entries[entry.lighter].heavier = entry.heavier;
        delete list.entries[who];
        --list.size;
    }
}
