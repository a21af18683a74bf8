"""ChatMember, as the Bot API's JSON has it."""

from __future__ import annotations

from typing import Any

from tests.fakes.messages import User

GONE = ("left", "kicked")
ADMINS = ("creator", "administrator")

_ADMIN_RIGHTS = [
    "can_manage_chat",
    "can_delete_messages",
    "can_manage_video_chats",
    "can_restrict_members",
    "can_promote_members",
    "can_change_info",
    "can_invite_users",
    "can_post_stories",
    "can_edit_stories",
    "can_delete_stories",
    "can_pin_messages",
    "can_manage_topics",
]
_MEMBER_RIGHTS = [
    "can_change_info",
    "can_invite_users",
    "can_pin_messages",
    "can_send_messages",
    "can_send_polls",
    "can_send_other_messages",
    "can_add_web_page_previews",
    "can_manage_topics",
    "can_send_audios",
    "can_send_documents",
    "can_send_photos",
    "can_send_videos",
    "can_send_video_notes",
    "can_send_voice_notes",
    "can_edit_tag",
    "can_react_to_messages",
]


def member(user: User, status: str, *, channel: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"user": user.json(), "status": status}
    if status in ADMINS:
        body["is_anonymous"] = False
    if status == "administrator":
        body |= {"can_be_edited": False, **dict.fromkeys(_ADMIN_RIGHTS, True)}
        if channel:
            body |= {"can_post_messages": True, "can_edit_messages": True}
    if status in ("restricted", "kicked"):
        body["until_date"] = 0
    if status == "restricted":
        body |= {"is_member": True, **dict.fromkeys(_MEMBER_RIGHTS, False)}
    return body
